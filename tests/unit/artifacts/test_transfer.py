"""Copies between layouts keep digests, verify everything and disturb nothing else."""

import json
import os
from pathlib import Path

import pytest
from helpers_store import flip_bit, parent_manifest, put_gate
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocli.artifacts.checking import verify
from ecocli.artifacts.listing import list_artifacts
from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.oci import EMPTY_DIGEST, LAYOUT_BYTES
from ecocli.artifacts.provenance import Provenance
from ecocli.artifacts.store import Store
from ecocli.artifacts.transfer import pull, push
from ecocli.errors import ArtifactError, EcoError, UsageError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


def _index(folder: Path) -> list[tuple[str, str]]:
    entries = json.loads((folder / "index.json").read_bytes())["manifests"]
    return [
        (entry.get("annotations", {}).get("org.opencontainers.image.ref.name"), entry["digest"]) for entry in entries
    ]


def test_push__after_a_kill_at_the_start__completes_the_layout(store: Store, tmp_path: Path) -> None:
    artifact = put_gate(store, names=("mine",))
    for left in ((), ("oci-layout",), ("oci-layout", "blobs/sha256")):
        target = tmp_path / str(len(left))
        target.mkdir()
        for name in left:
            if name == "oci-layout":
                (target / name).write_bytes(LAYOUT_BYTES)
            else:
                (target / name).mkdir(parents=True)
        (target / f".unfinished-elsewhere-1-{len(left)}").write_bytes(b"half")
        os.utime(target / f".unfinished-elsewhere-1-{len(left)}", (0, 0))
        assert push(store, "mine", target) == artifact.digest


def test_create__damaged_marker_of_a_store__is_written_anew_and_another_version_refused(store: Store) -> None:
    put_gate(store)
    store.layout.marker.write_bytes(b"")
    store.create()
    store.layout.check_marker()
    store.layout.marker.write_bytes(b'{"imageLayoutVersion":"9.0.0"}')
    with pytest.raises(ArtifactError, match="no OCI image layout"):
        store.create()


def test_push__missing_folder__makes_a_plain_layout(store: Store, tmp_path: Path) -> None:
    artifact = put_gate(store, names=("mine",))
    target = tmp_path / "disk" / "layout"
    assert push(store, "mine", target) == artifact.digest
    assert sorted(path.name for path in target.iterdir()) == ["blobs", "index.json", "oci-layout"]
    assert [path.name for path in (target / "blobs").iterdir()] == ["sha256"]
    assert _index(target) == [("mine", artifact.digest)]
    assert Store(target).get(artifact.digest, GateManifest).manifest == artifact.manifest


def test_push__layout_of_another_tool__keeps_its_entries(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "layout"
    target.mkdir()
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')
    theirs = {"mediaType": "x", "digest": "sha256:" + "9" * 64, "size": 3, "extra": 1}
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [theirs]}))
    first, second = put_gate(store, 0.1, names=("mine",)).digest, put_gate(store, 0.2).digest
    push(store, "mine", target)
    push(store, "mine", target)
    push(store, second, target)
    assert _index(target) == [(None, "sha256:" + "9" * 64), ("mine", first), (None, second)]
    push(store, second, target, name="mine")
    assert _index(target) == [(None, "sha256:" + "9" * 64), (None, second), ("mine", second)]
    assert json.loads((target / "index.json").read_bytes())["manifests"][0] == theirs


def test_push__store__sets_name_and_provenance_there(store: Store, other: Store) -> None:
    put_gate(other, 0.5, names=("theirs",))
    artifact = store.put(parent_manifest(), {}, provenance=Provenance(world_size=8))
    push(store, artifact.digest, other.root, name="taken")
    assert other.names()["taken"] == artifact.digest
    assert other.read_provenance(artifact.digest).world_size == 8
    assert verify(other) == ()
    assert store.names() == {}


def test_push__record_of_another_version__is_copied_as_it_is(store: Store, other: Store) -> None:
    other.create()
    digest = store.put(parent_manifest(), {}).digest
    record = {"created_at": "2020-01-01T00:00:00+00:00", "threads": "8", "latency": [{"new": 1}]}
    store.provenance_path(digest).write_text(json.dumps(record))
    push(store, digest, other.root)
    assert json.loads(other.provenance_path(digest).read_text()) == record
    pull(store, other.root, digest)
    assert json.loads(store.provenance_path(digest).read_text()) == {**record, "pulled_from": str(other.root)}


def test_push__folder_with_other_files__is_refused(store: Store, tmp_path: Path) -> None:
    put_gate(store, names=("mine",))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "x.tex").write_text("x")
    with pytest.raises(ArtifactError, match=r"thesis is no OCI image layout: .*oci-layout has 'no file'"):
        push(store, "mine", tmp_path / "thesis")


def test_push__damaged__copies_nothing(store: Store, tmp_path: Path) -> None:
    flip_bit(put_gate(store, names=("mine",)).path_of("notes.json"))
    with pytest.raises(ArtifactError, match=r"Damaged file notes\.json"):
        push(store, "mine", tmp_path / "layout")
    assert not (tmp_path / "layout").exists()


def test_push__impossible_name__is_refused(store: Store, tmp_path: Path) -> None:
    digest = put_gate(store).digest
    with pytest.raises(UsageError, match="'a/b' cannot be a name"):
        push(store, digest, tmp_path / "layout", name="a/b")


def test_push__index_rewritten_all_the_time__gives_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_gate(store, names=("mine",))
    monkeypatch.setattr("ecocli.artifacts.transfer.build_index", lambda entries: b'{"manifests":[]}')
    with pytest.raises(UsageError, match=r"Other processes keep rewriting .*index\.json"):
        push(store, "mine", tmp_path / "layout")


@pytest.mark.parametrize("plain", [True, False])
def test_pull__pushed_before__comes_back_the_same(store: Store, other: Store, tmp_path: Path, plain: bool) -> None:
    artifact = put_gate(store, names=("mine",))
    source = tmp_path / "layout" if plain else store.root
    if plain:
        push(store, "mine", source)
    for reference in ("mine", artifact.digest, artifact.digest[7:15]):
        assert pull(other, source, reference) == artifact.digest
    assert other.names() == {"mine": artifact.digest}
    assert other.get(artifact.digest, GateManifest).manifest == artifact.manifest
    assert other.read_provenance(artifact.digest).pulled_from == str(source)
    assert verify(other) == ()


def test_pull__other_name__sets_only_that(store: Store, other: Store) -> None:
    digest = put_gate(store, names=("mine",)).digest
    pull(other, store.root, "mine", name="yours")
    assert other.names() == {"yours": digest}


def test_pull__with_inputs__brings_everything_it_was_made_from(store: Store, other: Store, tmp_path: Path) -> None:
    parent = store.put(parent_manifest(), {"model": b"p"}).digest
    derived = put_gate(store, 0.1, inputs={"parent": parent}).digest
    put_gate(store, 0.2, inputs={"derived": derived, "parent": parent}, names=("gate",))
    pull(other, store.root, "gate")
    assert len(other.digests()) == 1
    pull(other, store.root, "gate", with_inputs=True)
    assert other.digests() == store.digests()
    push(store, "gate", tmp_path / "layout", with_inputs=True)
    assert sorted(digest for _, digest in _index(tmp_path / "layout")) == store.digests()


def test_pull__input_is_not_there__is_refused(store: Store, other: Store) -> None:
    put_gate(store, inputs={"parent": "sha256:" + "7" * 64}, names=("gate",))
    with pytest.raises(ArtifactError, match="There is no artifact sha256:777"):
        pull(other, store.root, "gate", with_inputs=True)


def test_pull__damaged_source__leaves_the_store_as_it_was(store: Store, other: Store, tmp_path: Path) -> None:
    artifact = put_gate(store, names=("mine",))
    push(store, "mine", tmp_path / "layout")
    flip_bit(Store(tmp_path / "layout").blobs.path(artifact.manifest.files[0].digest))
    with pytest.raises(ArtifactError, match=r"Damaged file gate\.safetensors of artifact"):
        pull(other, tmp_path / "layout", "mine")
    assert not other.root.exists()


def test_pull__no_layout__is_refused(other: Store, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is no OCI image layout: .*oci-layout has 'no file'"):
        pull(other, tmp_path / "nothing", "mine")


def test_pull__unknown_reference__lists_the_names(store: Store, other: Store, tmp_path: Path) -> None:
    put_gate(store, names=("mine",))
    push(store, "mine", tmp_path / "layout")
    with pytest.raises(ArtifactError, match=r"'yours' is not in the layout .*; the index has mine\."):
        pull(other, tmp_path / "layout", "yours")
    (tmp_path / "layout" / "index.json").unlink()
    with pytest.raises(ArtifactError, match=r"the index has no names\."):
        pull(other, tmp_path / "layout", "mine")


def test_pull__ambiguous_prefix__lists_the_candidates(store: Store, other: Store, tmp_path: Path) -> None:
    target = tmp_path / "layout"
    put_gate(store, names=("mine",))
    push(store, "mine", target)
    twins = ["sha256:beef" + "0" * 60, "sha256:beef" + "1" * 60]
    entries = [{"mediaType": "x", "digest": twin, "size": 1} for twin in twins]
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    with pytest.raises(ArtifactError, match=f"'beef' is ambiguous: found {twins[0]}, {twins[1]}"):
        pull(other, target, "beef")


def test_push__artifact_without_files__carries_its_placeholder(store: Store, tmp_path: Path) -> None:
    put_gate(store, files={}, names=("mine",))
    push(store, "mine", tmp_path / "layout")
    assert Store(tmp_path / "layout").blobs.path(EMPTY_DIGEST).read_bytes() == b"{}"


def test_push__file_changes_while_copied__is_refused(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = put_gate(store, names=("mine",))

    def damage_after_check(self: Store, digest: str, *, full: bool) -> list[object]:
        flip_bit(artifact.path_of("notes.json"))
        return []

    monkeypatch.setattr(Store, "closure_faults", damage_after_check)
    with pytest.raises(ArtifactError, match=r"Damaged file notes\.json"):
        push(store, "mine", other.root)
    assert list_artifacts(other) == ()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_pull__layout_with_any_change__the_same_artifact_or_an_error_of_the_project(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("layout")
    digest = put_gate(Store(place / "store"), files={"a": b"123", "b": b""}, names=("mine",)).digest
    push(Store(place / "store"), "mine", place / "layout")
    path = data.draw(st.sampled_from(sorted(p for p in (place / "layout").rglob("*") if p.is_file())))
    old = path.read_bytes()
    position = data.draw(st.integers(0, len(old)))
    new = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.just(old[:position]),
            st.binary(min_size=1, max_size=3).map(lambda part: old[:position] + part + old[position + len(part) :]),
        )
    )
    path.chmod(0o644)
    path.write_bytes(new)
    target = Store(place / "target")
    try:
        assert pull(target, place / "layout", "mine") == digest
    except EcoError:
        assert target.names() == {}
    else:
        assert verify(target) == ()
