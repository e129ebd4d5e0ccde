"""Read the tensors of a weights file: pickles of detectron2, torch files, safetensors, Hugging Face folders.

Nothing in a file is executed: pickles go through ``pickle_reader``, torch files through ``weights_only`` loading, and
the configuration objects that training checkpoints carry become inert shells.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ecocli.errors import DataError
from ecocli.runtime import formats
from ecocli.runtime.files import open_regular
from ecocli.weights.mappings import STATE_DICT_KEYS
from ecocli.weights.pickle_reader import read_pickle
from ecocli.weights.renaming import State

_ZIP_MAGIC: Final = b"PK\x03\x04"
# The first bytes of torch.save's format before version 1.6: a pickled magic number.
_LEGACY_TORCH_MAGIC: Final = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# Classes that training checkpoints pickle beside the weights; their content is not looked at.
_INERT_NAMES: Final = ("argparse.Namespace", "yacs.config.CfgNode", "omegaconf.dictconfig.DictConfig")
SAFETENSORS_INDEX: Final = "model.safetensors.index.json"
SAFETENSORS_FILE: Final = "model.safetensors"
# What folders held before safetensors; read where they have nothing newer.
TORCH_INDEX: Final = "pytorch_model.bin.index.json"
TORCH_FILE: Final = "pytorch_model.bin"
PROCESSOR_FILE: Final = "preprocessor_config.json"
_JSON_LIMIT_BYTES: Final = 64 << 20


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that together make up a source: the file itself, or what a Hugging Face folder consists of.

    Raises:
        DataError: The path does not exist, or the folder lacks its configuration or its weights.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist. Give a .pkl, .pth or .safetensors file or a Hugging Face folder.")
    if not path.is_dir():
        return (path,)
    config = path / "config.json"
    if not config.is_file():
        raise DataError(f"The folder {path} has no config.json. Expected a Hugging Face Mask2Former folder.")
    configs = [config]
    if (path / PROCESSOR_FILE).is_file():
        configs.append(path / PROCESSOR_FILE)
    for index_name, file_name in ((SAFETENSORS_INDEX, SAFETENSORS_FILE), (TORCH_INDEX, TORCH_FILE)):
        index = path / index_name
        if index.is_file():
            shards = tuple(path / name for name in sorted(set(_weight_map(index).values())))
            return (*configs, index, *shards)
        if (path / file_name).is_file():
            return (*configs, path / file_name)
    raise DataError(
        f"The folder {path} has no {SAFETENSORS_FILE} and no {TORCH_FILE}. Expected config.json and weights beside it."
    )


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f'{index} has no "weight_map". Expected the index of sharded weights.')
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise DataError(f"{index} names the shard {name!r}. Expected the name of a file beside it.")
    return weight_map


def source_digest(path: Path) -> str:
    """Identity of a source, wherever it lies: SHA-256 of its file, or over names and SHA-256 of a folder's files.

    Raises:
        DataError: The path does not exist, cannot be read, or is an incomplete folder.
    """
    digests = {}
    for file in weight_files(path):
        with _opened(file) as stream:
            digests[file.name] = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    if not path.is_dir():
        return digests[path.name]
    listing = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


def _opened(path: Path) -> BufferedReader:
    try:
        return open_regular(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        DataError: The file is missing or holds no JSON object.
    """
    try:
        content = formats.read_json(path, _JSON_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no readable JSON file: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}. Expected a JSON object.")
    return content


def load_state(path: Path) -> State:
    """Load the state dict of a file or a Hugging Face folder.

    Args:
        path: ``.pkl``, ``.pth``, ``.safetensors``, or a folder with ``config.json`` and weights.

    Returns:
        CPU tensors by the names of the file. Wrappers such as ``{"model": ...}`` are taken off.

    Raises:
        DataError: The file is missing, truncated, of an unknown kind, or holds anything but plain data.
    """
    files = weight_files(path)
    for file in files:
        _opened(file).close()
    if path.is_dir():
        state: State = {}
        for file in files:
            if file.suffix == ".safetensors":
                state |= _read_safetensors(file)
            elif file.suffix == ".bin":
                state |= _state_dict_of(_read_torch(file), file)
        return state
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with _opened(path) as stream:
        head = stream.read(len(_LEGACY_TORCH_MAGIC))
    if head.startswith(_ZIP_MAGIC) or head == _LEGACY_TORCH_MAGIC:
        return _state_dict_of(_read_torch(path), path)
    if path.suffix in (".pkl", ".pickle") or head.startswith(b"\x80"):
        return _state_dict_of(read_pickle(path), path)
    raise DataError(f"{path} is neither a torch file nor a pickle nor safetensors. Expected published weights.")


def _read_safetensors(path: Path) -> State:
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is no complete safetensors file ({error}). Copy or download it again.") from error


def _read_torch(path: Path) -> object:
    # An ordered dict takes any pickled state and does nothing with it.
    inert: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
        (OrderedDict, name) for name in _INERT_NAMES
    ]
    try:
        with torch.serialization.safe_globals(inert):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
            return content
    except Exception as error:
        # Torch raises RuntimeError, UnpicklingError, EOFError and others for damaged or refused files alike.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked is not None:
            raise DataError(
                f"{path} holds the name {asked.group(1)}. Only tensors and plain values are read from a torch file, "
                "and nothing in it was executed; save its state dict alone if you trust its author."
            ) from None
        raise DataError(
            f"{path} is no complete torch file ({type(error).__name__}). Expected a checkpoint written by torch.save; "
            "copy or download it again."
        ) from error


def _state_dict_of(content: object, path: Path) -> State:
    """Find the mapping of names to tensors inside the usual wrappers."""
    candidates = [content]
    if isinstance(content, Mapping):
        average = content.get("ema")  # RT-DETR's checkpoints keep the averaged weights a level down
        candidates += [average["module"]] if isinstance(average, Mapping) and "module" in average else []
        candidates += [content[key] for key in STATE_DICT_KEYS if key in content]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {str(name): tensor.detach() for name, tensor in candidate.items()}
    found = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
    raise DataError(
        f"{path} holds no state dict: found {found}. Expected tensors by name, alone or under one of "
        f"{', '.join(STATE_DICT_KEYS)}."
    )
