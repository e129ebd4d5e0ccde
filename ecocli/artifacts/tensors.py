"""Tensors in safetensors files, byte for byte the same for the same tensors.

The only metadata is ``{"format": "pt"}``: with several keys safetensors 0.8 writes them in a random order, and the
digest would change from process to process. torch is imported when a function is called, not before.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ecocli.errors import ArtifactError
from ecocli.runtime.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(tensors: "Mapping[str, Tensor]") -> bytes:
    """Return the bytes of a safetensors file, ready for `Store.put`.

    Args:
        tensors: Any device, any strides; tensors that share memory are stored apart.
    """
    from safetensors.torch import save

    return bytes(save(_independent(tensors), metadata={"format": "pt"}))


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write a safetensors file that appears whole or not at all; for checkpoints in a run folder.

    Raises:
        UsageError: The file system refuses.
    """
    # Not safetensors' own writing: it hides what the file system says, and does not sync.
    write_bytes(path, save_tensors(tensors), path.parent)


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file to CPU tensors.

    Raises:
        ArtifactError: The file is missing or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"Cannot read tensors from {path}: {error}. Expected a safetensors file; "
            "`eco store verify` checks the store."
        ) from error
    return tensors


def _independent(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    # safetensors refuses tensors that share storage, such as tied weights or slices of one buffer.
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        found[name] = plain
    return found
