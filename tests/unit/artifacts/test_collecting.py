"""Collection: what is named, recent or needed stays; the rest goes, once it is old enough."""

import shutil
from pathlib import Path

import pytest
from helpers_store import age, flip_bit, gate_manifest, parent_manifest, put_gate

from ecocli.artifacts.checking import verify
from ecocli.artifacts.collecting import collect
from ecocli.artifacts.digest import hex_of
from ecocli.artifacts.listing import list_artifacts
from ecocli.artifacts.manifest import GateManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError

ACTION, OTHER = (gate_manifest(beta).action_digest("fit-gate") for beta in (0.2, 0.1))
DAY_S = 24 * 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _files(store: Store) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


def test_collect__no_store__does_nothing(store: Store) -> None:
    assert collect(store).artifacts == []
    assert not store.root.exists()


def test_collect__old_and_unnamed__is_removed_with_all_its_files(store: Store) -> None:
    store.create()
    before = _files(store)
    digest = put_gate(store, 0.2, action=ACTION).digest
    age(store.root, 15 * DAY_S)
    found = collect(store)
    assert found.artifacts == [digest]
    # Both files, the config and the OCI manifest.
    assert len(found.blobs) == 4
    assert found.freed_bytes > 0
    assert _files(store) - {"eco/locks/gc.lock"} == before
    assert list_artifacts(store) == ()


def test_collect__within_the_grace_period__stays(store: Store) -> None:
    artifact = put_gate(store, 0.2, action=ACTION)
    age(store.root, 13 * DAY_S)
    assert collect(store).blobs == []
    assert store.get(artifact.digest, GateManifest) == artifact


def test_collect__used_lately__stays(store: Store) -> None:
    artifact = put_gate(store, 0.2, action=ACTION)
    age(store.root, 15 * DAY_S)
    assert store.find_action(ACTION) == artifact.digest
    assert collect(store).artifacts == []
    assert store.get(artifact.digest, GateManifest) == artifact


def test_collect__named__keeps_the_inputs_of_its_inputs(store: Store) -> None:
    parent = store.put(parent_manifest(), {"model.safetensors": b"p"})
    derived = put_gate(store, 0.1, inputs={"parent": parent.digest})
    gate = put_gate(store, 0.2, inputs={"derived": derived.digest}, names=("gate",))
    doomed = put_gate(store, 0.3)
    age(store.root, 100 * DAY_S)
    assert collect(store).artifacts == [doomed.digest]
    assert store.get(gate.digest, GateManifest) == gate
    assert store.get(parent.digest, ParentManifest) == parent


def test_collect__input_that_was_never_here__is_no_hindrance(store: Store) -> None:
    gate = put_gate(store, inputs={"parent": OTHER}, names=("gate",))
    age(store.root, 100 * DAY_S)
    assert collect(store).artifacts == []
    assert store.get(gate.digest, GateManifest) == gate


def test_collect__shared_blob__stays_for_the_named_one(store: Store) -> None:
    named = put_gate(store, 0.1, {"w": b"same"}, names=("a",))
    put_gate(store, 0.2, {"w": b"same"})
    assert len(collect(store, 0.0).blobs) == 2
    assert store.get(named.digest, GateManifest) == named


def test_collect__dry_run__says_the_same_and_removes_nothing(store: Store) -> None:
    put_gate(store, 0.2, action=ACTION)
    store.run_dir(OTHER)
    age(store.root, 15 * DAY_S)
    before = _files(store)
    told = collect(store, dry_run=True)
    assert _files(store) == before
    assert collect(store) == told
    assert told.artifacts != []


def test_collect__leftovers__go_when_old_enough(store: Store) -> None:
    store.create()
    scratch, run = store.layout.scratch / "1-x.tmp", store.run_dir(ACTION)
    scratch.write_bytes(b"half")
    (run / "checkpoint").write_bytes(b"x")
    with store.lock(OTHER):
        pass
    lock = store.layout.locks / f"{hex_of(OTHER)}.lock"
    age(store.root, 2 * DAY_S)
    # Temporary files are useless after a day; runs and locks have the whole grace period.
    assert collect(store).leftovers == [scratch]
    age(store.root, 15 * DAY_S)
    assert collect(store).leftovers == [run, lock]
    assert not run.exists()


def test_collect__run_in_progress__stays_however_old(store: Store) -> None:
    run = store.run_dir(ACTION)
    with store.lock(ACTION):
        age(store.root, 100 * DAY_S)
        assert collect(store).leftovers == []
    assert run.exists()


def test_collect__fresh_file_deep_in_an_old_run__keeps_it(store: Store) -> None:
    run = store.run_dir(ACTION)
    (run / "parts").mkdir()
    (run / "parts" / "0.parquet").write_bytes(b"x")
    age(store.root, 100 * DAY_S)
    # Written into a folder that was there: no folder's time moves.
    (run / "parts" / "0.parquet").touch()
    assert collect(store).leftovers == []


def test_collect__damaged_live_artifact__is_refused(store: Store) -> None:
    digest = put_gate(store, names=("mine",)).digest
    flip_bit(store.blobs.path(digest))
    with pytest.raises(ArtifactError, match=r"Nothing was collected, because .* --damaged"):
        collect(store)


@pytest.mark.parametrize("dry_run", [False, True])
def test_collect__damaged__goes_with_its_names_and_leaves_a_sound_store(store: Store, dry_run: bool) -> None:
    sound = put_gate(store, 0.1, names=("sound",), action=OTHER)
    broken = put_gate(store, 0.2, {"w": b"123"}, names=("gate", "broken"), action=ACTION)
    no_manifest = put_gate(store, 0.3, {"w": b"456"}, names=("lost",))
    flip_bit(broken.path_of("w"))
    store.blobs.path(no_manifest.digest).unlink()
    store.name_files.path("garbage").write_bytes(b"{")
    stray = store.blobs.path(store.blobs.put_bytes(b"stray").digest)
    flip_bit(stray)
    found = collect(store, damaged=True, dry_run=dry_run)
    assert found.names == ["broken", "garbage", "gate", "lost"]
    assert found.artifacts == sorted([broken.digest, no_manifest.digest])
    assert found.blobs == sorted([broken.path_of("w"), stray])
    assert (verify(store) == ()) is not dry_run
    if not dry_run:
        assert store.names() == {"sound": sound.digest}
        assert store.find_action(ACTION) is None
        assert store.find_action(OTHER) == sound.digest


def test_collect__store_without_blobs_folder__is_no_hindrance(store: Store) -> None:
    store.create()
    shutil.rmtree(store.root / "blobs")
    assert collect(store, dry_run=True).blobs == []
