"""Small artifacts for tests of the store."""

from collections.abc import Mapping
from pathlib import Path

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import FileContents, GateManifest, ParentManifest
from ecocli.artifacts.store import Store


def gate_manifest(beta: float = 0.1, inputs: Mapping[str, str] | None = None) -> GateManifest:
    """A gate's manifest without files."""
    return GateManifest(
        schema_version=1,
        stage_config={"beta": beta},
        inputs=dict(inputs or {}),
        dataset_fingerprints={},
        exit_depths=(2, 3),
        beta=beta,
        feature="res5",
        metrics={},
    )


def parent_manifest(steps: int = 7) -> ParentManifest:
    """A parent's manifest without files."""
    return ParentManifest(
        schema_version=1,
        stage_config={},
        inputs={},
        dataset_fingerprints={"train": "abc"},
        architecture={"num_queries": 5},
        exit_depths=(2, 3),
        categories=({"id": 1, "name": "disc"},),
        steps=steps,
    )


def put_gate(
    store: Store,
    beta: float = 0.1,
    files: FileContents | None = None,
    inputs: Mapping[str, str] | None = None,
    action: str | None = None,
    names: tuple[str, ...] = (),
) -> Artifact[GateManifest]:
    """Store a gate; different betas give different artifacts."""
    contents = {"gate.safetensors": b"weights", "notes.json": b"{}"} if files is None else files
    return store.put(gate_manifest(beta, inputs), contents, action=action, names=names)


def overwrite(path: Path, data: bytes) -> None:
    """Damage a read-only blob in place."""
    path.chmod(0o644)
    path.write_bytes(data)


def flip_bit(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    overwrite(path, bytes(data))


def age(root: Path, seconds: float) -> None:
    """Make everything below a folder look older."""
    import os
    import time

    then = time.time() - seconds
    for path in (root, *root.rglob("*")):
        os.utime(path, (then, then))
