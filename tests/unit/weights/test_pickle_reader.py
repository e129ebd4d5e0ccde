"""The restricted pickle reader: same values as detectron2's loading, and nothing ever executed."""

import io
import os
import pickle
import runpy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecocli.errors import DataError
from ecocli.weights.pickle_reader import read_pickle


class Call:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def write(folder: Path, value: object, protocol: int = 2) -> Path:
    path = folder / "weights.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_read_pickle__arrays_and_tensors__same_values(protocol: int, tmp_path: Path) -> None:
    # Expected: the values that went in; detectron2 reads the same file with plain pickle.
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {
        "model": OrderedDict(
            plain=grid,
            columns=np.asfortranarray(grid),
            half=grid.astype(np.float16),
            big_endian=grid.astype(">f8"),
            scalar=np.array(5, dtype=np.int64),
            tensor=torch.arange(8.0)[2:].view(2, 3),
            turned=torch.arange(6, dtype=torch.int32).view(3, 2).t(),
        ),
        "iteration": np.int64(7),
        "__author__": "somebody",
        "matching_heuristics": True,
        "losses": [1.5, None, (2, "x")],
        "raw": b"\x00\xff",
    }
    found: Any = read_pickle(write(tmp_path, content, protocol))
    model = found["model"]
    for name in ("plain", "columns", "half", "big_endian"):
        assert model[name].tolist() == grid.tolist(), name
    assert model["half"].dtype == torch.float16
    assert model["scalar"].item() == 5
    assert model["tensor"].tolist() == [[2, 3, 4], [5, 6, 7]]
    assert model["turned"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert (found["iteration"], found["__author__"], found["matching_heuristics"]) == (7, "somebody", True)
    assert found["losses"] == [1.5, None, [2, "x"]]
    assert found["raw"] == b"\x00\xff"


def test_read_pickle__python_2_latin1_text__becomes_the_array(tmp_path: Path) -> None:
    # Python 2 wrote array bytes as a string, which encoding="latin1" turns into text.
    raw = np.array([1.0, -2.0], dtype=np.float32).tobytes().decode("latin1")
    path = tmp_path / "old.pkl"
    text = pickle.dumps({"model": {"a": np.array([0.0, 0.0], dtype=np.float32)}}, protocol=2)
    state = np.array([1.0, -2.0], dtype=np.float32).__reduce__()[2]
    assert isinstance(state, tuple)
    assert state[4].decode("latin1") == raw
    path.write_bytes(text)
    # Rebuild the same pickle with the array's state holding text instead of bytes.
    fake = Call(np.zeros(1).__reduce__()[0], np.ndarray, (0,), b"b")
    fake_state = (*state[:4], raw)
    fake.__class__ = type("WithState", (Call,), {"__reduce__": lambda self: (*self.call, fake_state)})
    path.write_bytes(pickle.dumps({"a": fake}, protocol=2))
    found: Any = read_pickle(path)
    assert found["a"].tolist() == [1.0, -2.0]


def payloads(marker: Path) -> dict[str, object]:
    """Values whose ordinary unpickling runs code or writes files."""
    script = marker.with_suffix(".py")
    script.write_text(f"open({str(marker)!r}, 'w').close()\n")
    inner = io.BytesIO()
    pickle.dump(Call(os.system, f"touch {marker}"), inner, protocol=2)
    torch_file = io.BytesIO()
    torch.save({"a": Call(os.system, f"touch {marker}")}, torch_file)
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "runpy": Call(runpy.run_path, str(script)),
        "getattr chain": Call(getattr, Call(__import__, "os"), "system"),
        "memmap": Call(np.memmap, str(marker), "uint8", "w+", 0, (4,)),
        "eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "nested storage": Call(torch.storage._load_from_bytes, inner.getvalue()),
        "nested torch file": Call(torch.storage._load_from_bytes, torch_file.getvalue()),
        "in a good file": {"model": {"a": np.ones(3)}, "extra": [Call(os.mkdir, str(marker))]},
    }


@pytest.mark.parametrize(
    "name",
    ["os.system", "runpy", "getattr chain", "memmap", "eval", "nested storage", "nested torch file", "in a good file"],
)
def test_read_pickle__code__is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path, payloads(marker)[name])
    with pytest.raises(DataError, match="nothing in it was executed"):
        read_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "runpy", "memmap", "eval", "nested torch file", "in a good file"])
def test_payloads__plain_pickle__would_run(name: str, tmp_path: Path) -> None:
    # The control of the test above: these payloads are live.
    marker = tmp_path / "ran"
    opened: Any = pickle.loads(pickle.dumps(payloads(marker)[name], protocol=2))
    if name == "eval":
        opened.close()
    assert marker.exists()


@pytest.mark.parametrize(
    "value,message",
    [
        (np.array([{"a": 1}, None], dtype=object), "only numbers are accepted"),
        (np.array(["text"]), "dtype 'U4'"),
        (np.zeros(2, dtype=[("a", "f4")]), "only numbers are accepted"),
        ({"a", "b"}, "the name __builtin__.set"),
        (Call(np.ndarray, (4,)), "an array built by its constructor"),
        (Call(np.zeros(1).__reduce__()[0], OrderedDict, (0,), b"b"), "an array of class"),
        (Call(np.zeros(1).__reduce__()[0], np.ndarray, (0,), b"b"), "an object of type Array"),
        (np.dtype("f4"), "an object of type Dtype"),
        (Call(OrderedDict, "ab"), "an OrderedDict of something else"),
        (Call(torch._utils._rebuild_tensor_v2, 3, 0, (1,), (1,), False, None), "a tensor without a storage"),
        (Call(torch.storage._load_from_bytes, "text"), "a tensor storage that is not bytes"),
        (np.ndarray, "an object of type Recipe"),
    ],
)
def test_read_pickle__not_plain_numbers__refused(value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_pickle(write(tmp_path, value))


def storage_call(size: object, stride: object, offset: object = 0) -> Call:
    buffer = io.BytesIO()
    torch.save(torch.arange(4.0).storage(), buffer, _use_new_zipfile_serialization=False)
    storage = Call(torch.storage._load_from_bytes, buffer.getvalue())
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    "size,stride,offset,message",
    [
        ((5,), (1,), 0, "in a storage of 4 elements"),
        ((2, 2), (3, 1), 1, "in a storage of 4 elements"),
        ((2,), (-1,), 3, "a tensor of size"),
        ((2,), (1, 1), 0, "a tensor of size"),
        ((2,), (1,), -1, "a tensor without a storage"),
    ],
)
def test_read_pickle__tensor_outside_its_storage__refused(
    size: object, stride: object, offset: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_pickle(write(tmp_path, storage_call(size, stride, offset)))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_read_pickle__storage_that_holds_something_else__refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    with pytest.raises(DataError, match="a tensor storage that is dict"):
        read_pickle(write(tmp_path, Call(torch.storage._load_from_bytes, buffer.getvalue())))


@pytest.mark.parametrize(
    "shape,raw,message",
    [
        ((3,), b"\0" * 8, "of shape \\(3,\\) and dtype float32 with 8 bytes"),
        ((-1,), b"\0" * 4, "an array of shape \\(-1,\\)"),
        ((2**40, 2**40), b"\0" * 4, "with 4 bytes"),
    ],
)
def test_read_pickle__array_whose_bytes_do_not_fit__refused(
    shape: tuple[int, ...], raw: bytes, message: str, tmp_path: Path
) -> None:
    state = (1, shape, np.dtype("f4"), False, raw)
    array = Call(np.zeros(1).__reduce__()[0], np.ndarray, (0,), b"b")
    array.__class__ = type("WithState", (Call,), {"__reduce__": lambda self: (*self.call, state)})
    with pytest.raises(DataError, match=message):
        read_pickle(write(tmp_path, array))


def test_read_pickle__state_for_an_allowed_function__refused(tmp_path: Path) -> None:
    # A pickle may set attributes of what it names; the reader's own functions must not change between files.
    path = tmp_path / "state.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}X\x05\x00\x00\x00valueK\x01sb.")
    with pytest.raises(DataError, match="a change to one of the reader's own functions"):
        read_pickle(path)


def test_read_pickle__other_text_encoding__refused(tmp_path: Path) -> None:
    import codecs

    with pytest.raises(DataError, match="text in the encoding 'rot13'"):
        read_pickle(write(tmp_path, Call(codecs.encode, "uryyb", "rot13")))


def test_read_pickle__deep_nesting__refused(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(60):
        value = [value]
    with pytest.raises(DataError, match="nested more than 32 levels"):
        read_pickle(write(tmp_path, value))


def test_read_pickle__shared_lists__visited_once(tmp_path: Path) -> None:
    # Doubling at each of 25 levels: 2 to the 25 visits if shared objects were walked again and again.
    value: list[Any] = [1]
    for _ in range(25):
        value = [value, value]
    found: Any = read_pickle(write(tmp_path, value))
    assert found[0] is found[1]


@pytest.mark.parametrize("keep_ratio", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_read_pickle__truncated__no_complete_pickle(keep_ratio: float, tmp_path: Path) -> None:
    path = write(tmp_path, {"model": {f"layer{i}": np.ones((5, 7), np.float32) for i in range(4)}})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep_ratio)])
    with pytest.raises(DataError, match="is no complete pickle"):
        read_pickle(path)


def test_read_pickle__missing_file__names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.pkl cannot be read"):
        read_pickle(tmp_path / "absent.pkl")
