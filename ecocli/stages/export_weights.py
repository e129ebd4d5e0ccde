"""A parent's weights to files for other programs; nothing goes into the store.

The result appears whole or not at all: it is written beside its place and moved there at the end.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import WEIGHTS_FILE, exit_of
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors, save_tensors
from ecocli.config.export_weights import ExportWeightsConfig
from ecocli.errors import UsageError
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import check_output, open_output, replacing_folder, user_path, write_bytes
from ecocli.weights.export import to_pickle
from ecocli.weights.formats import FORMATS
from ecocli.weights.renaming import State

_ANOTHER_PLACE = "name another place with --out"


def _to_torch_file(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": state}, buffer)
    return buffer.getvalue()


_FILE_KINDS: Mapping[str, Callable[[State], bytes]] = {
    ".pkl": to_pickle,
    ".pth": _to_torch_file,
    ".safetensors": save_tensors,
}


@dataclass(frozen=True)
class ExportPlan:
    """What is to be written.

    Attributes:
        depth: Encoder layers of the exported model.
    """

    out: Path
    parent: Artifact[ParentManifest]
    depth: int


def plan(config: ExportWeightsConfig, inputs: Mapping[str, str], store: Store) -> ExportPlan:
    """Open the parent, and refuse what the run would refuse.

    Args:
        inputs: Digest of the ``parent``.

    Raises:
        UsageError: The place is taken, the suffix says no format, the format cannot hold this model, or it has no such
            exit.
        ArtifactError: The parent is damaged.
    """
    out = user_path(config.out)
    suffixes = ", ".join(_FILE_KINDS)
    if config.format == "original" and out.suffix not in _FILE_KINDS:
        raise UsageError(f"--out is {out}, which ends in none of {suffixes}. The suffix says what to write.")
    if out.exists() and not config.replace:
        raise UsageError(f"{out} is there already. Name another place, or give --force to replace it.")
    if config.format == "hf" and out.exists() and not (out / "config.json").is_file():
        raise UsageError(f"{out} is no Hugging Face folder, so it is not replaced. Name another place.")
    check_output(out.parent, _ANOTHER_PLACE)
    parent = store.get(inputs["parent"], ParentManifest)
    depth = exit_of(parent.manifest, config.exit_depth)
    if config.format == "hf":
        architecture = parent.manifest.architecture
        FORMATS[architecture.kind].check_folder(architecture)
    return ExportPlan(out, parent, depth)


def run(config: ExportWeightsConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> Path:
    """Write a parent for another program and return the folder or file.

    Raises:
        UsageError: The place is taken or cannot be written, or the format cannot hold this model.
        ArtifactError: The parent is damaged.
    """
    planned = plan(config, inputs, store)
    out, manifest, depth = planned.out, planned.parent.manifest, planned.depth
    architecture = manifest.architecture
    state = planned.parent.read(WEIGHTS_FILE, load_tensors)
    files: Mapping[str, bytes]
    formats = FORMATS[architecture.kind]
    if config.format == "hf":
        files = formats.folder(architecture, state, manifest.categories, depth, manifest.test_resize)
    else:
        files = {"": _FILE_KINDS[out.suffix](formats.original(architecture, state, depth))}
    _place(out, files)
    runtime.log.info("Wrote %s with %d encoder layers to %s.", architecture.name, depth, out)
    return out


def _place(out: Path, files: Mapping[str, bytes]) -> None:
    if "" in files:
        open_output(out.parent, _ANOTHER_PLACE)
        write_bytes(out, files[""], out.parent, otherwise=_ANOTHER_PLACE)
        return
    with replacing_folder(out, _ANOTHER_PLACE) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
