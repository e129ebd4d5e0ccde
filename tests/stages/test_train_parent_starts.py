"""Where a training begins: at a parent of the store, at a file of published weights, at a backbone."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_train_parent import parent_of, settings
from helpers_training import tiny_model

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.weights.export import to_pickle


def test_run__init__starts_from_its_weights(trained: tuple[Store, Artifact[ParentManifest]], data_root: Path) -> None:
    store, parent = trained
    started = parent_of(settings(data_root, steps=0), store, init=parent.digest)
    assert started.manifest.inputs == {"init": parent.digest}
    first = load_tensors(parent.path_of("model.safetensors"))
    second = load_tensors(started.path_of("model.safetensors"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_run__init_of_other_architecture__refused(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path
) -> None:
    store, parent = trained
    config = settings(data_root, steps=0, architecture={"transformer_decoder": {"num_queries": 7}})
    with pytest.raises(ArtifactError, match=r"query_embed\.weight has shape \[6, 32\], expected \[7, 32\]"):
        parent_of(config, store, init=parent.digest)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A Mask2Former of the tiny architecture under the original's names, with random weights."""
    path = tmp_path / "model_final.pkl"
    path.write_bytes(to_pickle(dict(tiny_model(5).state_dict())))
    return path


def test_run__init_file__starts_from_it_wherever_it_lies(published: Path, data_root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    started = parent_of(settings(data_root, steps=0, init_file=str(published)), store)
    digest = f"sha256:{hashlib.sha256(published.read_bytes()).hexdigest()}"
    assert started.manifest.stage_config["init_digest"] == digest
    assert "init_file" not in started.manifest.stage_config
    weights, expected = load_tensors(started.path_of("model.safetensors")), tiny_model(5).state_dict()
    # The head of 3 classes does not fit the 13 of the shapes; everything else is the file's.
    other = {name for name in expected if not torch.equal(weights[name], expected[name])}
    assert other == {f"sem_seg_head.predictor.class_embed.{part}" for part in ("weight", "bias")}
    moved = published.rename(tmp_path / "moved.pkl")
    assert parent_of(settings(data_root, steps=0, init_file=str(moved)), store).digest == started.digest
    moved.write_bytes(to_pickle(dict(tiny_model(6).state_dict())))
    assert parent_of(settings(data_root, steps=0, init_file=str(moved)), store).digest != started.digest


def test_run__init_file_of_a_backbone__fills_the_backbone(data_root: Path, tmp_path: Path) -> None:
    backbone = tiny_model(5).backbone.state_dict()
    path = tmp_path / "backbone.pth"
    torch.save({"state_dict": backbone}, path)
    started = parent_of(settings(data_root, steps=0, init_file=str(path)), Store(tmp_path / "store"))
    weights = load_tensors(started.path_of("model.safetensors"))
    assert all(torch.equal(weights[f"backbone.{name}"], tensor) for name, tensor in backbone.items())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", r"model_final\.pkl does not exist"),
        ("truncated", r"model_final\.pkl is no complete pickle"),
        (
            "other model",
            r"is of another model: .*res2\.0\.conv1\.weight \[8, 8, 1, 1\], expected \[16, 8, 1, 1\]",
        ),
        ("unknown", r"model_final\.pkl is no checkpoint that is known here"),
    ],
)
def test_run__bad_init_file__nothing_stored(
    kind: str, message: str, published: Path, data_root: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {}
    if kind == "absent":
        published.unlink()
    elif kind == "truncated":
        published.write_bytes(published.read_bytes()[:-1000])
    elif kind == "other model":
        changes = {"architecture": {"backbone": {"bottleneck_channels": 16}}}
    else:
        published.write_bytes(to_pickle({"layer.weight": torch.ones(2)}))
    store = Store(tmp_path / "store")
    with pytest.raises(DataError, match=message):
        parent_of(settings(data_root, steps=0, init_file=str(published), **changes), store)
    assert store.digests() == []
    assert store.names() == {}


def test_run__two_starts__refused(published: Path, data_root: Path, tmp_path: Path) -> None:
    config = settings(data_root, steps=0, init_file=str(published))
    with pytest.raises(UsageError, match=r"both from the file .*model_final\.pkl and from the parent sha256:00"):
        parent_of(config, Store(tmp_path / "store"), init="sha256:00")
