"""Loading state dicts from the kinds of files in circulation."""

import argparse
import json
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ecocli.errors import DataError
from ecocli.weights.files import load_state, read_json, source_digest, weight_files

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, 2.0])}


class CfgNode(dict[str, Any]):
    """Stands for yacs's configuration class, which training checkpoints contain."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.__dict__["immutable"] = True


def assert_is_state(found: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(STATE)
    for name, tensor in STATE.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_load_state__pickle_of_arrays__under_model(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in STATE.items()}, "__author__": "x"}))
    assert_is_state(load_state(path))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "teacher"])
def test_load_state__torch_file__wrapper_taken_off(wrapper: str | None, is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    content: object = STATE if wrapper is None else {wrapper: STATE, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    assert_is_state(load_state(path))


def test_load_state__safetensors__as_written(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    found = load_state(tmp_path / "model.safetensors")
    assert found.keys() == STATE.keys()


def test_load_state__training_checkpoint_with_configs__weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MoBY's checkpoints pickle a yacs CfgNode, DINO's an argparse.Namespace.
    module = types.ModuleType("yacs.config")
    monkeypatch.setattr(CfgNode, "__module__", "yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        config = CfgNode({"MODEL": CfgNode({"NAME": "moby"})})
        torch.save({"model": STATE, "config": config, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    assert_is_state(load_state(tmp_path / "a.pth"))


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_load_state__torch_file_with_code__refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"model": STATE, "extra": Touch(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(DataError, match=r"holds the name (posix|nt)\.system.*nothing in it was executed"):
        load_state(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.pth", "old.pth", "a.safetensors", "a.pkl"])
def test_load_state__truncated__not_complete(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    big = {"model": {"a": torch.ones(100, 100)}}
    if name == "a.safetensors":
        save_file(big["model"], path)
    elif name == "a.pkl":
        path.write_bytes(pickle.dumps({"model": {"a": np.ones((100, 100))}}))
    else:
        torch.save(big, path, _use_new_zipfile_serialization=name == "a.pth")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match="no complete"):
        load_state(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, {"model": {"a": 3}}, {"model": {}}, [torch.ones(1)]])
def test_load_state__no_state_dict__says_what_it_found(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(DataError, match="holds no state dict"):
        load_state(tmp_path / "a.pth")


def test_load_state__text_file__unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match="is neither a torch file nor a pickle"):
        load_state(tmp_path / "a.pth")


def test_weight_files__missing_path__says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        weight_files(tmp_path / "nothing.pkl")


def test_weight_files__folder_without_config__refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no config\.json"):
        weight_files(tmp_path)


def test_weight_files__folder_without_weights__refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"has no model\.safetensors"):
        weight_files(tmp_path)


def test_load_state__sharded_folder__all_shards(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weight_map = {}
    for index, (name, tensor) in enumerate(STATE.items()):
        save_file({name: tensor}, tmp_path / f"model-{index}.safetensors")
        weight_map[name] = f"model-{index}.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_is_state(load_state(tmp_path))


def test_weight_files__index_that_leaves_the_folder__refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(DataError, match="Expected the name of a file beside it"):
        weight_files(tmp_path)


def test_weight_files__index_without_map__refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(DataError, match="Expected the index of sharded weights"):
        weight_files(tmp_path)


@pytest.mark.parametrize("text,message", [("{", "no readable JSON file"), ("[1]", "holds a list")])
def test_read_json__not_an_object__refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "a.json")


def test_source_digest__file__its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"abc")
    # Origin: the test vector of FIPS 180-2 for "abc".
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert source_digest(tmp_path / "a.pkl") == expected


def test_source_digest__folder__every_file_counts(tmp_path: Path) -> None:
    digests = set()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
        if name != "config.json":
            digests.add(source_digest(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{ }")
    digests.add(source_digest(tmp_path))
    assert len(digests) == 3
    (tmp_path / "README.md").write_text("not read")
    assert source_digest(tmp_path) in digests


def test_source_digest__missing_shard__cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(DataError, match=r"model-1\.safetensors cannot be read"):
        source_digest(tmp_path)


@pytest.mark.parametrize("sharded", [False, True])
def test_load_state__hugging_face_folder_of_before_safetensors__everything(sharded: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    if sharded:
        shards = {name: f"pytorch_model-{index}.bin" for index, name in enumerate(STATE)}
        for name, file in shards.items():
            torch.save({name: STATE[name]}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    else:
        torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert_is_state(load_state(tmp_path))
