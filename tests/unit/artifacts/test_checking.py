"""Verification finds every kind of damage, and nothing in a sound store."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_store import flip_bit, gate_manifest, overwrite, parent_manifest, put_gate

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.checking import verify
from ecocli.artifacts.digest import canonical_json
from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.oci import build_index, build_manifest, read_index
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.files import sealing, write_bytes

ACTION = gate_manifest().action_digest("fit-gate")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _problems(store: Store, reference: str | None = None) -> list[tuple[str, str]]:
    return [(fault.problem, fault.path.name) for fault in verify(store, reference)]


def test_verify__sound_store__finds_nothing(store: Store) -> None:
    put_gate(store, names=("mine",), action=ACTION)
    store.put(parent_manifest(), {})
    assert verify(store) == verify(store, "mine") == ()


def test_verify__no_store__is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match=r"There is no store at .*: expected a folder made by eco"):
        verify(store)


def test_verify__flipped_bit__names_all_owners_expected_and_found(store: Store) -> None:
    first = put_gate(store, 0.1, {"w": b"same"})
    second = put_gate(store, 0.2, {"w": b"same"})
    flip_bit(first.path_of("w"))
    faults = verify(store)
    assert sorted(fault.owner for fault in faults) == sorted([first.digest, second.digest])
    assert {fault.path for fault in faults} == {first.path_of("w")}
    assert first.manifest.files[0].digest in faults[0].expected
    assert faults[0].found.startswith("the digest sha256:")
    assert _problems(store, first.digest) == [("Damaged file w", first.path_of("w").name)]


def test_verify__blob_of_nobody__is_checked_too(store: Store) -> None:
    store.create()
    path = store.blobs.path(store.blobs.put_bytes(b"abc").digest)
    flip_bit(path)
    assert [(fault.owner, fault.path) for fault in verify(store)] == [("", path)]


def test_verify__truncated_and_missing__are_both_listed(store: Store) -> None:
    artifact = put_gate(store, files={"a": b"123", "b": b"456"})
    overwrite(artifact.path_of("a"), b"12")
    artifact.path_of("b").unlink()
    assert sorted(_problems(store)) == [
        ("Damaged blob", artifact.path_of("a").name),
        ("Missing file b", artifact.path_of("b").name),
    ]


def _unlink_manifest(store: Store, artifact: Artifact[GateManifest]) -> None:
    store.blobs.path(artifact.digest).unlink()


def _break_name(store: Store, artifact: Artifact[GateManifest]) -> None:
    store.name_files.path("mine").write_bytes(b"{}")


def _swap_action(store: Store, artifact: Artifact[GateManifest]) -> None:
    # A sound entry, in the place of another request's.
    other = put_gate(store, 0.3, action=gate_manifest(0.3).action_digest("fit-gate"))
    store.actions.write(ACTION, other.digest)


def _break_provenance(store: Store, artifact: Artifact[GateManifest]) -> None:
    store.provenance_path(artifact.digest).write_bytes(b"[" * 100_000)


def _swap_name(store: Store, artifact: Artifact[GateManifest]) -> None:
    ref = store.name_files.read("mine")
    assert ref is not None
    store.name_files.write("mine", dataclasses.replace(ref, kind="parent"))


def _break_action(store: Store, artifact: Artifact[GateManifest]) -> None:
    store.actions.path(ACTION).write_bytes(b"{}")


def _break_index(store: Store, artifact: Artifact[GateManifest]) -> None:
    store.layout.index.write_bytes(b"[]")


def _remove_index(store: Store, artifact: Artifact[GateManifest]) -> None:
    store.layout.index.unlink()


def _break_marker(store: Store, artifact: Artifact[GateManifest]) -> None:
    store.layout.marker.write_bytes(b"{}")


@pytest.mark.parametrize(
    "damage, problems",
    [
        (_unlink_manifest, {"Missing blob", "Dangling name"}),
        (_break_name, {"Damaged name"}),
        (_break_action, {"Damaged action entry"}),
        (_swap_action, {"Wrong action entry"}),
        (_break_provenance, {"Damaged provenance"}),
        (_swap_name, {"Wrong name"}),
        (_break_index, {"Damaged index"}),
        (_remove_index, {"Missing index"}),
        (_break_marker, {"Damaged marker"}),
    ],
)
def test_verify__damaged_bookkeeping__is_named(
    store: Store, damage: Callable[[Store, Artifact[GateManifest]], None], problems: set[str]
) -> None:
    damage(store, put_gate(store, names=("mine",), action=ACTION))
    assert {problem for problem, _ in _problems(store)} == problems


def test_verify__artifact_that_contradicts_itself__is_named(store: Store) -> None:
    artifact = put_gate(store)
    config = store.blobs.put_bytes(artifact.manifest.canonical_bytes())
    digest = store.blobs.put_bytes(build_manifest("gate", config, ())).digest
    store.set_name("forged", digest)
    assert _problems(store) == _problems(store, "forged") == [("Unreadable artifact", digest[7:])]


def test_verify__config_that_is_no_manifest__is_named(store: Store) -> None:
    store.create()
    config = store.blobs.put_bytes(canonical_json([]))
    store.set_name("forged", store.blobs.put_bytes(build_manifest("gate", config, ())).digest)
    assert [problem for problem, _ in _problems(store)] == ["Unreadable artifact"]


def test_verify__unknown_reference__is_refused(store: Store) -> None:
    put_gate(store)
    with pytest.raises(ArtifactError, match="'nothing' is unknown"):
        verify(store, "nothing")


def test_verify__index_behind_the_names__is_healed_and_said(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    artifact = put_gate(store, names=("mine",))
    # As a kill between the name and the index leaves it.
    write_bytes(store.layout.index, build_index([]), store.layout.scratch)
    assert verify(store) == ()
    assert "lagged behind the names" in caplog.text
    assert [(name, digest) for name, digest, _ in read_index(store.layout.index)] == [("mine", artifact.digest)]
    caplog.clear()
    assert verify(store) == ()
    assert caplog.text == ""


def test_verify__damaged_part_of_an_unfinished_run__is_listed(store: Store) -> None:
    put_gate(store)
    run = store.run_dir(ACTION)
    for name in ("part-1", "part-2"):
        with sealing(run / name, name) as folder:
            (folder / "rows").write_bytes(b"123")
    assert verify(store) == ()
    (run / "part-2" / "rows").write_bytes(b"124")
    (fault,) = verify(store)
    assert (fault.problem, fault.path) == ("Damaged part", run / "part-2")
