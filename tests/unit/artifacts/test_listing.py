"""Lists: every artifact once, damaged ones included."""

import json
from pathlib import Path

import pytest
from helpers_store import flip_bit, parent_manifest, put_gate

from ecocli.artifacts.listing import list_artifacts
from ecocli.artifacts.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _date(store: Store, digest: str, year: int) -> None:
    store.provenance_path(digest).write_text(json.dumps({"created_at": f"{year}-01-01T00:00:00+00:00"}))


def test_list_artifacts__several__newest_first_with_names_and_size(store: Store) -> None:
    old = put_gate(store, 0.1, {"a": b"123"}, names=("b", "a")).digest
    new = store.put(parent_manifest(), {}).digest
    _date(store, old, 2020)
    _date(store, new, 2021)
    lines = list_artifacts(store)
    assert [(line.digest, line.kind, line.names) for line in lines] == [(new, "parent", ()), (old, "gate", ("a", "b"))]
    blobs = [old, store.read_oci(old).config.digest]
    assert lines[1].size_bytes == 3 + sum(store.blobs.path(digest).stat().st_size for digest in blobs)
    assert lines[1].created_at == "2020-01-01T00:00:00+00:00"


def test_list_artifacts__kind__lists_only_it(store: Store) -> None:
    gate = put_gate(store).digest
    store.put(parent_manifest(), {})
    assert [line.digest for line in list_artifacts(store, "gate")] == [gate]


def test_list_artifacts__damaged_manifest__is_listed_with_its_problem(store: Store) -> None:
    digest = put_gate(store, names=("mine",)).digest
    flip_bit(store.blobs.path(digest))
    (line,) = list_artifacts(store, "parent")
    assert (line.digest, line.kind, line.names, line.size_bytes) == (digest, "", ("mine",), 0)
    assert "Damaged blob" in line.problem
