"""Read the pickled checkpoints of detectron2 without executing anything.

Published ``.pkl`` files are ordinary pickles of a dict of numpy arrays, or of torch tensors pickled outside
``torch.save``. An ordinary unpickler runs whatever function a file names. Here every name on the exact allow-list
below stands for a small recipe of this module, any other name is refused, and numpy's own unpickling is not used:
arrays are rebuilt from checked shape, dtype and bytes. Then the whole result is walked, and only plain data passes.

Source of the allow-list: the two kinds of files in circulation. Differs from ``pickle.load(encoding="latin1")``, which
detectron2 calls, in everything but the result.
"""

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeGuard

import numpy as np
import torch

from ecocli.errors import DataError

_NUMBER_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_MAX_DEPTH: Final = 32


class _Refusal(Exception):  # noqa: N818 - travels through the unpickler and becomes a DataError
    """The file asks for something outside the allow-list."""


class _Dtype:
    """A numeric dtype in the making: numpy names it first and sets its byte order afterwards."""

    def __init__(self, name: object, *_flags: object) -> None:
        if not isinstance(name, str) or not _NUMBER_DTYPE.fullmatch(name):
            raise _Refusal(f"an array of dtype {name!r}; only numbers are accepted")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: object) -> None:
        byte_order = state[1] if isinstance(state, tuple) and len(state) >= 2 else None
        if byte_order not in ("<", ">", "|", "=") or not isinstance(state, tuple) or any(state[2:5]):
            raise _Refusal(f"a dtype with state {state!r}; only plain numbers are accepted")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
    """An array in the making: numpy creates it empty and fills it afterwards."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refusal("an array whose state is not (version, shape, dtype, order, bytes)")
        _version, shape, dtype, is_fortran, raw = state
        self.value = _array_of(raw, dtype, shape, "F" if is_fortran else "C")


def _array_of(raw: object, dtype: object, shape: object, order: object) -> np.ndarray:
    """Array from bytes (or their latin-1 text, as Python 2 wrote them), with every argument checked."""
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise _Refusal("an array that holds objects; only numbers are accepted")
    if not _is_sides(shape):
        raise _Refusal(f"an array of shape {shape!r}")
    if order not in ("C", "F") or math.prod(shape) * dtype.dtype.itemsize != len(raw):
        raise _Refusal(f"an array of shape {shape} and dtype {dtype.dtype} with {len(raw)} bytes")
    return np.frombuffer(bytes(raw), dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: object, *_ignored: object) -> _Array:
    if kind is not _ALLOWED[("numpy", "ndarray")]:
        raise _Refusal(f"an array of class {kind!r}")
    return _Array()


def _from_buffer(raw: object, dtype: object, shape: object, order: object = "C") -> np.ndarray:
    return _array_of(bytes(raw) if isinstance(raw, bytearray | memoryview) else raw, dtype, shape, order)


def _scalar(dtype: object, raw: object) -> int | float | bool:
    value: int | float | bool = _array_of(raw, dtype, (), "C").item()
    return value


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refusal(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


def _ordered_dict(pairs: object = ()) -> dict[object, object]:
    if not isinstance(pairs, Sequence) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise _Refusal("an OrderedDict of something else than pairs")
    return dict(pairs)


def _storage(raw: object) -> torch.Tensor:
    """The storage of a tensor pickled outside torch.save (a small torch file inside the pickle), as a flat tensor."""
    if not isinstance(raw, bytes):
        raise _Refusal("a tensor storage that is not bytes")
    try:
        storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _Refusal("a tensor storage that is no plain torch storage") from None
    if not isinstance(storage, torch.TypedStorage):
        raise _Refusal(f"a tensor storage that is {type(storage).__name__}")
    return torch.empty(0, dtype=storage.dtype).set_(storage)


def _tensor(storage: object, offset: object, size: object, stride: object, *_ignored: object) -> torch.Tensor:
    if not isinstance(storage, torch.Tensor) or type(offset) is not int or offset < 0:
        raise _Refusal("a tensor without a storage")
    if not _is_sides(size) or not _is_sides(stride) or len(size) != len(stride):
        raise _Refusal(f"a tensor of size {size!r} and stride {stride!r}")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.numel():
        raise _Refusal(f"a tensor of size {size} and stride {stride} in a storage of {storage.numel()} elements")
    return storage.as_strided(size, stride, offset).clone()


def _is_sides(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(type(side) is int and side >= 0 for side in value)


class _Recipe:
    """What an allowed name stands for; callable, and closed against a pickle that sets its state."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., object]) -> None:
        self._build = build

    def __call__(self, *arguments: object) -> object:
        return self._build(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise _Refusal("a change to one of the reader's own functions")


def _no_call(*_arguments: object) -> object:
    raise _Refusal("an array built by its constructor")


_ALLOWED: Final[Mapping[tuple[str, str], _Recipe]] = {
    ("numpy", "ndarray"): _Recipe(_no_call),
    ("numpy", "dtype"): _Recipe(_Dtype),
    ("numpy.core.multiarray", "_reconstruct"): _Recipe(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _Recipe(_reconstruct),
    ("numpy.core.multiarray", "scalar"): _Recipe(_scalar),
    ("numpy._core.multiarray", "scalar"): _Recipe(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Recipe(_from_buffer),
    ("numpy._core.numeric", "_frombuffer"): _Recipe(_from_buffer),
    ("_codecs", "encode"): _Recipe(_encode),
    ("collections", "OrderedDict"): _Recipe(_ordered_dict),
    ("torch._utils", "_rebuild_tensor_v2"): _Recipe(_tensor),
    ("torch.storage", "_load_from_bytes"): _Recipe(_storage),
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows the allow-list and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> _Recipe:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise _Refusal(f"the name {module_name}.{global_name}") from None


def _plain(value: object, depth: int, seen: dict[int, object]) -> object:
    """Walk the result: finish arrays, refuse whatever is not plain data, visit shared objects once."""
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.Tensor):
        return value
    if isinstance(value, np.ndarray):
        native: np.ndarray = value.astype(value.dtype.newbyteorder("="))
        return torch.from_numpy(native)
    if isinstance(value, _Array) and value.value is not None:
        return _plain(value.value, depth, seen)
    if depth > _MAX_DEPTH:
        raise _Refusal(f"data nested more than {_MAX_DEPTH} levels deep")
    if id(value) not in seen:
        if isinstance(value, dict):
            seen[id(value)] = {
                _plain(key, depth + 1, seen): _plain(item, depth + 1, seen) for key, item in value.items()
            }
        elif isinstance(value, list | tuple):
            seen[id(value)] = [_plain(item, depth + 1, seen) for item in value]
        else:
            raise _Refusal(f"an object of type {type(value).__name__.lstrip('_')}")
    return seen[id(value)]


def read_pickle(path: Path) -> object:
    """Read a pickled checkpoint without executing anything in it.

    Returns:
        Dicts, lists, numbers, strings, bytes; numpy arrays and torch tensors both as CPU tensors, tuples as lists.

    Raises:
        DataError: The file is truncated or damaged, or holds anything but plain data.
    """
    try:
        with path.open("rb") as stream:
            return _plain(_Reader(stream, encoding="latin1").load(), 0, {})
    except _Refusal as error:
        raise DataError(
            f"{path} holds {error}. Only arrays, tensors and plain values are read from a pickle, and nothing in it "
            "was executed; do not open this file with another program unless you trust its author."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:
        # A damaged pickle can make the unpickler raise nearly anything; none of it is a bug of this tool.
        raise DataError(
            f"{path} is no complete pickle ({type(error).__name__}: {error}). Expected a checkpoint as detectron2 "
            "writes it; download or copy the file again."
        ) from error
