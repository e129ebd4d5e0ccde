"""Provenance: enough to find out later where a number came from."""

import datetime
import json
from importlib import metadata

import pytest

from ecocli.artifacts import provenance as module
from ecocli.artifacts.provenance import Provenance, local_provenance


def test_local_provenance__here__records_time_host_and_versions() -> None:
    found = local_provenance()
    created = datetime.datetime.fromisoformat(found.created_at)
    assert abs(datetime.datetime.now(datetime.UTC) - created) < datetime.timedelta(minutes=5)
    assert found.host
    assert found.versions["pydantic"] == metadata.version("pydantic")


def test_local_provenance__package_not_installed__leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module._versions.cache_clear()
    monkeypatch.setattr(module, "_PACKAGES", ("no-such-package-here", "pydantic"))
    versions = local_provenance().versions
    module._versions.cache_clear()
    assert sorted(versions) == ["pydantic", "python"]


def test_beside__both_know_something__the_other_wins_and_notes_stay() -> None:
    one = Provenance.model_validate({"host": "a", "threads": 2, "source": "model.pkl", "seconds": 2})
    other = Provenance.model_validate({"host": "b", "ms_per_image": {"exit 2": 3.5}, "seconds": 4})
    both = one.beside(other)
    known = {"host": "b", "threads": 2, "source": "model.pkl", "seconds": 4, "ms_per_image": {"exit 2": 3.5}}
    assert both.known() == known
    assert Provenance.known_of(json.loads(json.dumps(both.known()))) == both
