"""Tensor files: same tensors, same bytes; damage is an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ecocli.artifacts.tensors import load_tensors, save_tensors, write_tensors
from ecocli.errors import ArtifactError, UsageError


def _tensors() -> dict[str, torch.Tensor]:
    return {
        "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "half": torch.ones(3, dtype=torch.float16),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
    }


def test_save_tensors__any_order__gives_the_same_bytes() -> None:
    tensors = _tensors()
    assert save_tensors(tensors) == save_tensors(dict(reversed(tensors.items())))


def test_save_tensors__header__has_the_format_as_only_metadata() -> None:
    data = save_tensors(_tensors())
    # safetensors: 8 bytes of header length, little endian, then the header as JSON.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


def test_write_tensors__other_process__gives_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from ecocli.artifacts.tensors import write_tensors;"
        "write_tensors(Path(sys.argv[1]), {'b': torch.arange(3), 'a': torch.ones(2, 2)})"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=True, cwd=Path(__file__).parents[3])
    assert (tmp_path / "x").read_bytes() == save_tensors({"a": torch.ones(2, 2), "b": torch.arange(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_load_tensors__written__reads_back_equal(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", _tensors())
    loaded = load_tensors(tmp_path / "x")
    assert sorted(loaded) == sorted(_tensors())
    for name, tensor in _tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_save_tensors__shared_and_strided__are_stored_apart(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    views = {"tied": base, "again": base, "row": base[1], "turned": base.T, "tail": base[2:]}
    (tmp_path / "x").write_bytes(save_tensors(views))
    for name, tensor in load_tensors(tmp_path / "x").items():
        assert torch.equal(tensor, views[name])
        assert not tensor.requires_grad


@pytest.mark.parametrize("data", [None, b"", b"not a safetensors file"])
def test_load_tensors__damaged_or_missing__is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "x").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"Cannot read tensors from .*/x: .* Expected a safetensors file"):
        load_tensors(tmp_path / "x")


def test_write_tensors__no_folder__is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot write .*/none/x: No such file"):
        write_tensors(tmp_path / "none" / "x", _tensors())
