"""Manifests: what they refuse, and their canonical bytes."""

import json
from pathlib import Path

import pytest
from helpers_store import gate_manifest, parent_manifest
from pydantic import ValidationError

import ecocli
from ecocli.artifacts.manifest import FileEntry, GateManifest, Manifest, base_manifest, kind_of_class

DIGEST = "sha256:" + "0" * 64


def _entry(name: str) -> FileEntry:
    return FileEntry(name=name, size_bytes=1, digest=DIGEST)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../b", "a//b", "", ".hidden", "a\\b", "a b", "-x", "x\n"])
def test_file_entry__name_that_leaves_the_folder__is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        _entry(name)


def test_file_entry__name_in_subfolder__is_taken() -> None:
    assert _entry("overlays/000139.png").name == "overlays/000139.png"


def test_with_files__any_order__sorts_by_name() -> None:
    stored = gate_manifest().with_files([_entry("b"), _entry("a")])
    assert isinstance(stored, GateManifest)
    assert [entry.name for entry in stored.files] == ["a", "b"]


def test_with_files__name_twice__is_refused() -> None:
    with pytest.raises(ValidationError, match="files must be sorted by name and named once"):
        gate_manifest().with_files([_entry("a"), _entry("a")])


def test_manifest__input_that_is_no_digest__is_refused() -> None:
    with pytest.raises(ValidationError, match="inputs"):
        gate_manifest(inputs={"derived": "latest"})


def test_canonical_bytes__gate__reads_back_equal() -> None:
    stored = gate_manifest(inputs={"derived": DIGEST}).with_files([_entry("a")])
    assert GateManifest.model_validate_json(stored.canonical_bytes()) == stored


def test_canonical_bytes__not_finite_metric__is_refused() -> None:
    manifest = gate_manifest().model_copy(update={"beta": float("nan")})
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest.canonical_bytes()


def test_kind_of_class__gate__is_gate() -> None:
    assert kind_of_class(GateManifest) == "gate"


def test_kind_of_class__base__is_refused() -> None:
    with pytest.raises(TypeError, match=r"Manifest\.kind must be a Literal of one kind"):
        kind_of_class(Manifest)


def test_stage_config__package__no_stage_reads_that_of_another() -> None:
    # It is what was asked, for people: what stages want to know of others is a field of the kind, checked on reading.
    package = Path(ecocli.__file__).parent
    readers = {path for path in package.rglob("*.py") if "stage_config" in path.read_text(encoding="utf-8")}
    assert {path.relative_to(package).as_posix() for path in readers} == {
        "artifacts/action.py",
        "artifacts/manifest.py",
    }


def test_base_manifest__parent__keeps_the_shared_fields() -> None:
    parent = parent_manifest()
    shared = base_manifest(parent.canonical_bytes())
    assert shared.model_dump() == {key: parent.model_dump()[key] for key in Manifest.model_fields}


@pytest.mark.parametrize("data", [b"[]", b"{}", b"\xff", json.dumps({"kind": "gate"}).encode()])
def test_base_manifest__something_else__is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON object|validation error|codec|Field required"):
        base_manifest(data)
