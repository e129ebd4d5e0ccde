"""Provenance: enough to find out later where a number came from."""

import datetime
from importlib import metadata

import pytest

from ecocli.artifacts import provenance as module
from ecocli.artifacts.provenance import local_provenance


def test_local_provenance__here__records_time_host_and_versions() -> None:
    found = local_provenance()
    created = datetime.datetime.fromisoformat(str(found["created_at"]))
    assert abs(datetime.datetime.now(datetime.UTC) - created) < datetime.timedelta(minutes=5)
    assert found["host"]
    versions = found["versions"]
    assert isinstance(versions, dict)
    assert versions["pydantic"] == metadata.version("pydantic")


def test_local_provenance__package_not_installed__leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module._versions.cache_clear()
    monkeypatch.setattr(module, "_PACKAGES", ("no-such-package-here", "pydantic"))
    versions = local_provenance()["versions"]
    module._versions.cache_clear()
    assert isinstance(versions, dict)
    assert sorted(versions) == ["pydantic", "python"]
