"""The store: what goes in comes out, verified; anything else is an error with exit code 4."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_store import age, flip_bit, gate_manifest, gate_metrics, overwrite, parent_manifest, put_gate

from ecocli.artifacts import store as module
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.digest import canonical_json, hex_of, sha256_bytes
from ecocli.artifacts.listing import list_artifacts
from ecocli.artifacts.manifest import GateManifest, ParentManifest
from ecocli.artifacts.oci import Descriptor, build_index, build_manifest, read_index
from ecocli.artifacts.provenance import NOTHING_RECORDED, Provenance
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.runtime.files import write_bytes

ACTION = "sha256:" + "1" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_default__environment__names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store.default({"ECO_STORE": "/data/eco"}).root == Path("/data/eco")
    assert Store.default({"ECO_STORE": ""}).root == Store.default({}).root == Path(".eco")
    monkeypatch.setenv("ECO_STORE", "elsewhere")
    assert Store.default().root == Path("elsewhere")


def test_init__missing_folder__is_not_made(tmp_path: Path) -> None:
    assert Store(tmp_path / "x").names() == {}
    assert list_artifacts(Store(tmp_path / "x")) == ()
    assert not (tmp_path / "x").exists()


def test_put__gate__has_the_pinned_digest(store: Store) -> None:
    # Computed with hashlib and json from the image-spec's form, apart from this code (see the next test); pinned so
    # that nobody changes the addressing unaware: every stored digest would become another one.
    artifact = put_gate(store, files={"gate.safetensors": b"weights"})
    assert artifact.digest == "sha256:12ed66e72a2a3abe851421a7dcfc489ce40366d0f1f7919705eb8dab347301df"


def test_put__gate__is_an_oci_artifact_of_plain_json_and_hashlib(store: Store) -> None:
    def dump(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    def descriptor(data: bytes, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": sha256_bytes(data), "size": len(data)}

    config = dump(
        {
            "kind": "gate",
            "schema_version": 1,
            "stage_config": {"beta": 0.1},
            "inputs": {},
            "dataset_fingerprints": {},
            "files": [{"name": "gate.safetensors", "size_bytes": 7, "digest": sha256_bytes(b"weights")}],
            "exit_depths": [2, 3],
            "beta": 0.1,
            "feature": "res5",
            "metrics": gate_metrics().model_dump(mode="json"),
            "head": "class",
            "cost": "depth",
            "exit_costs": [],
            "task": "panoptic",
        }
    )
    layer = descriptor(b"weights", "application/vnd.eco.weights.v1.safetensors")
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.eco.gate.v1+json",
            "config": descriptor(config, "application/vnd.eco.gate.config.v1+json"),
            "layers": [{**layer, "annotations": {"org.opencontainers.image.title": "gate.safetensors"}}],
        }
    )
    artifact = put_gate(store, files={"gate.safetensors": b"weights"})
    assert artifact.digest == sha256_bytes(manifest)
    assert store.blobs.path(artifact.digest).read_bytes() == manifest


def test_get__put_before__returns_equal_manifest_and_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "source.bin").write_bytes(b"from a file")
    put = put_gate(store, files={"a.bin": tmp_path / "source.bin", "b/c.json": b"{}"}, inputs={"derived": ACTION})
    got = store.get(put.digest, GateManifest)
    assert got == put
    assert got.path_of("a.bin").read_bytes() == b"from a file"
    assert got.path_of("b/c.json").read_bytes() == b"{}"
    assert [(entry.name, entry.size_bytes) for entry in got.manifest.files] == [("a.bin", 11), ("b/c.json", 2)]


def test_get__artifact_without_files__comes_back(store: Store) -> None:
    assert store.get(put_gate(store, files={}).digest, GateManifest).manifest.files == ()


def test_path_of__unknown_file__lists_what_there_is(store: Store) -> None:
    with pytest.raises(ArtifactError, match=r"has no file 'x'; found gate\.safetensors, notes\.json\."):
        put_gate(store).path_of("x")
    with pytest.raises(ArtifactError, match="has no file 'x'; found no files"):
        put_gate(store, files={}).path_of("x")


def test_put__twice__is_one_artifact_whatever_the_order_and_provenance(store: Store) -> None:
    first = store.put(gate_manifest(), {"a": b"1", "b": b"2"}, provenance=Provenance(world_size=1))
    second = store.put(gate_manifest(), {"b": b"2", "a": b"1"}, provenance=Provenance(world_size=8))
    assert first == second
    assert store.read_provenance(first.digest).world_size == 8
    assert store.read_provenance(first.digest).host


def test_put__impossible_name__is_refused_before_anything_is_written(store: Store) -> None:
    with pytest.raises(UsageError, match="'a/b' cannot be a name"):
        put_gate(store, names=("a/b",))
    assert not store.root.exists()


def test_put__missing_file__makes_nothing_visible(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*missing to store it"):
        put_gate(store, files={"a": tmp_path / "missing"}, names=("x",), action=ACTION)
    assert list_artifacts(store) == ()
    assert store.find_action(ACTION) is None


def test_put__action__is_found_and_its_run_folder_is_gone(store: Store) -> None:
    run = store.run_dir(ACTION)
    (run / "checkpoint").write_bytes(b"x")
    assert store.run_dir(ACTION) == run
    artifact = put_gate(store, action=ACTION)
    assert store.find_action(ACTION) == artifact.digest
    assert not run.exists()
    assert list(store.layout.scratch.iterdir()) == []


def _layer(store: Store, artifact: Artifact[GateManifest]) -> Path:
    return artifact.path_of("gate.safetensors")


def _config(store: Store, artifact: Artifact[GateManifest]) -> Path:
    return store.blobs.path(store.read_oci(artifact.digest).config.digest)


def _manifest(store: Store, artifact: Artifact[GateManifest]) -> Path:
    return store.blobs.path(artifact.digest)


@pytest.mark.parametrize("part", [_layer, _config, _manifest])
@pytest.mark.parametrize(
    "damage, problem",
    [
        (flip_bit, "Damaged"),
        (lambda path: overwrite(path, path.read_bytes()[:-1]), "Wrong size|Damaged"),
        (Path.unlink, "Missing|There is no artifact"),
    ],
)
def test_get__damaged_part__is_refused_until_put_again(
    store: Store,
    part: Callable[[Store, Artifact[GateManifest]], Path],
    damage: Callable[[Path], None],
    problem: str,
) -> None:
    artifact = put_gate(store)
    damage(part(store, artifact))
    with pytest.raises(ArtifactError, match=problem):
        store.get(artifact.digest, GateManifest)
    assert store.closure_faults(artifact.digest, full=True) != []
    assert store.get(put_gate(store).digest, GateManifest) == artifact


def test_get__wrong_kind__says_found_and_expected(store: Store) -> None:
    digest = put_gate(store).digest
    with pytest.raises(ArtifactError, match=rf"{digest} is an artifact of kind 'gate', expected 'parent'"):
        store.get(digest, ParentManifest)


def test_get__unknown_digest__says_so(store: Store) -> None:
    with pytest.raises(ArtifactError, match=rf"There is no artifact {ACTION} in the store"):
        store.get(ACTION, GateManifest)


def _put_raw(store: Store, config: bytes, kind: str, files: tuple[Descriptor, ...] = ()) -> str:
    store.create()
    blob = store.blobs.put_bytes(config)
    return store.blobs.put_bytes(build_manifest(kind, blob, ())).digest


def test_get__manifest_of_another_version__says_so(store: Store) -> None:
    raw = gate_manifest().model_dump(mode="json") | {"temperature": 2.0}
    digest = _put_raw(store, canonical_json(raw), "gate")
    with pytest.raises(ArtifactError, match=r"of the gate sha256:\w+ does not fit .* \(temperature: .*another version"):
        store.get(digest, GateManifest)


def test_read_base__config_that_is_no_manifest__is_refused(store: Store) -> None:
    with pytest.raises(ArtifactError, match="does not fit what this version expects"):
        store.read_base(_put_raw(store, b"[]", "gate"))


def test_get__layers_disagree_with_manifest__is_refused(store: Store) -> None:
    artifact = put_gate(store)
    digest = _put_raw(store, artifact.manifest.canonical_bytes(), "gate")
    with pytest.raises(ArtifactError, match="contradicts itself: its manifest is of kind 'gate' with 2 files"):
        store.get(digest, GateManifest)


def test_get__kind_disagrees_with_manifest__is_refused(store: Store) -> None:
    digest = _put_raw(store, parent_manifest().canonical_bytes(), "gate")
    with pytest.raises(ArtifactError, match="contradicts itself: its manifest is of kind 'parent'"):
        store.get(digest, GateManifest)


def test_closure_faults__blob_that_is_no_artifact__is_one(store: Store) -> None:
    store.create()
    digest = store.blobs.put_bytes(b"hello").digest
    faults = store.closure_faults(digest, full=True)
    assert [fault.problem for fault in faults] == ["Not an artifact"]


def test_find_action__missing_blob__is_as_if_never_made(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put_gate(store, action=ACTION).path_of("notes.json").unlink()
    assert store.find_action(ACTION) is None
    assert "Missing file notes.json of artifact" in caplog.text


def test_find_action__truncated_blob__is_refused(store: Store) -> None:
    overwrite(put_gate(store, action=ACTION).path_of("notes.json"), b"{")
    with pytest.raises(ArtifactError, match=r"Wrong size of file notes\.json .* found 1 bytes .* expected 2 bytes"):
        store.find_action(ACTION)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"artifact":"../x"}', b'{"artifact":7}'])
def test_find_action__damaged_entry__runs_again(store: Store, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    put_gate(store, action=ACTION)
    store.actions.path(ACTION).write_bytes(data)
    assert store.find_action(ACTION) is None
    assert "The action entry" in caplog.text


def test_find_action__reuse__refreshes_entry_and_blobs(store: Store) -> None:
    put_gate(store, action=ACTION)
    age(store.root, 1e6)
    store.find_action(ACTION)
    recent = [path for path in store.root.rglob("*") if path.is_file() and path.stat().st_mtime > age_limit()]
    # The action entry; the OCI manifest, the config and both files.
    assert len(recent) == 1 + 4


def age_limit() -> float:
    return time.time() - 1e5


def test_set_name__unknown_digest__is_refused(store: Store) -> None:
    store.create()
    with pytest.raises(ArtifactError, match="There is no artifact"):
        store.set_name("x", ACTION)
    assert store.names() == {}


def test_set_name__index_lacks_the_name__gets_it(store: Store) -> None:
    artifact = put_gate(store, names=("mine",))
    # As a kill between the name and the index leaves it.
    write_bytes(store.layout.index, build_index([]), store.layout.scratch)
    store.set_name("mine", artifact.digest)
    assert [(name, digest) for name, digest, _ in read_index(store.layout.index)] == [("mine", artifact.digest)]


def test_set_name__damaged_name_file__is_written_anew(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    digest = put_gate(store, names=("x",)).digest
    store.name_files.path("x").write_bytes(b"")
    store.set_name("x", digest)
    assert store.names() == {"x": digest}
    assert "It is written anew" in caplog.text


def test_read_provenance__damaged_or_missing__is_empty(store: Store) -> None:
    digest = put_gate(store).digest
    assert store.read_provenance(ACTION) == NOTHING_RECORDED
    huge = b'{"threads": 1180591620717411303424}'
    for damaged in (b"[]", b"{", b'{"ms_per_image": 3}', b'{"latency": [{}]}', huge):
        store.provenance_path(digest).write_bytes(damaged)
        assert store.read_provenance(digest) == NOTHING_RECORDED
    # Of a record that another version wrote, what this one understands counts.
    store.provenance_path(digest).write_bytes(b'{"created_at": "2020", "threads": "8", "latency": [{"new": 1}]}')
    assert store.read_provenance(digest) == Provenance(created_at="2020")


def test_put__collector_takes_a_blob_meanwhile__writes_it_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build, taken = module.build_manifest, []

    def collect_then_build(*arguments: object) -> bytes:
        if not taken:
            taken.append(1)
            shutil.rmtree(store.blobs.directory)
            store.blobs.directory.mkdir()
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "build_manifest", collect_then_build)
    artifact = put_gate(store)
    assert taken
    assert store.get(artifact.digest, GateManifest) == artifact


def test_put__collector_without_end__is_reported(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build = module.build_manifest

    def collect_then_build(*arguments: object) -> bytes:
        shutil.rmtree(store.blobs.directory)
        store.blobs.directory.mkdir()
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "build_manifest", collect_then_build)
    with pytest.raises(ArtifactError, match="Missing blob of artifact"):
        put_gate(store)


def test_lock__store__stands_among_the_locks(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), store.lock(ACTION) as held:
        assert held
        assert (store.layout.locks / f"{hex_of(ACTION)}.lock").exists()
    assert caplog.text == ""
