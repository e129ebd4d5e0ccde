"""Which data set and recipe a command takes that was given a parent."""

from pathlib import Path

import pytest
from helpers_evaluation import Bench, make_bench

from ecocli.artifacts.manifest import ParentManifest
from ecocli.commands._parent_dataset import parent_dataset_preset
from ecocli.config.dataset import DatasetConfig


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))


def trained_on(bench: Bench, name: str) -> str:
    """Put a parent whose settings name other data."""
    manifest = bench.store.get(bench.inputs["parent"], ParentManifest).manifest
    dataset = DatasetConfig.model_validate({"name": name, "test_resize": {"short_edge_px": 96}})
    own = manifest.model_copy(update={"dataset": dataset, "files": ()})
    return bench.store.put(own, {"model.safetensors": b"none"}).digest


@pytest.mark.parametrize("named", [None, "my.toml", "../data/my.toml", str(Path("/elsewhere/my.toml"))])
def test_parent_dataset_preset__own_data_by_another_path__keeps_the_recipe(bench: Bench, named: str | None) -> None:
    settings = {} if named is None else {"dataset": {"name": named}}
    preset = parent_dataset_preset(bench.store, trained_on(bench, "data/my.toml"), settings)
    assert preset["dataset"]["test_resize"]["short_edge_px"] == 96


@pytest.mark.parametrize("named", ["coco", "data/your.toml"])
def test_parent_dataset_preset__other_data__has_its_own_recipe(bench: Bench, named: str) -> None:
    preset = parent_dataset_preset(bench.store, trained_on(bench, "data/my.toml"), {"dataset": {"name": named}})
    assert set(preset["dataset"]) == {"root"}
