"""Step A on two gloo processes: the same losses as on one, and one stop for both."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_children import ChildResult, ChildRun, run_children

from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors

_RESNET = """
architecture.backbone = { kind = "resnet", blocks = [1, 1, 1, 1], stem_channels = 8, res2_channels = 16, \
bottleneck_channels = 8, norm = "gn" }
"""
# The first of three steps trains the deepest exit alone.
_DEEPEST_FIRST = """
deepest_first = 0.34
loss.matching = "deepest"
"""
# Loses branches at random, each image its own.
_SWIN = """
architecture.backbone = { kind = "swin", embed_dim = 8, depths = [1, 1, 2, 1], num_heads = [1, 1, 2, 2], \
window_size = 4, drop_path_rate = 0.6 }
"""
_TOML = """
batch_size = 4
steps = 3
log_every = 1
exit_depths = [1, 2, 3]
exits_per_step = "all"
alpha = "depth"
keep_deepest = false
architecture.name = "tiny"
architecture.pixel_decoder.hidden_dim = 32
architecture.pixel_decoder.mask_dim = 16
architecture.pixel_decoder.encoder = { layers = 3, heads = 2, points = 2, feedforward_dim = 32 }
architecture.transformer_decoder = { layers = 1, heads = 2, feedforward_dim = 32, num_queries = 6 }
loss.num_points = 64
dataset.shapes = { train = 12, val = 4, scenes = { size = 64 } }
optimizer.lr = 2e-3
evaluation = { every = 3, images = 3, batch_size = 1 }
schedule = { kind = "constant" }
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ChildResult]]:
    """The same training on one process and on two, with all exits and with one drawn exit; and one stopped twice.

    The drawn exits stand on a Swin Transformer. Before all exits the deepest is trained alone.
    """
    folder = tmp_path_factory.mktemp("two")
    (folder / "resnet.toml").write_text(_TOML + _RESNET + _DEEPEST_FIRST)
    (folder / "swin.toml").write_text(_TOML + _SWIN + "deepest_first = 0.0\n")

    def run(
        store: str, world_size: int, number: int = 0, *more: str, at: str = "step 1", config: str = "resnet.toml"
    ) -> ChildRun:
        arguments = [
            "train-parent",
            "--config",
            config,
            "--data-root",
            "data",
            "--store",
            store,
            "--device",
            "cpu",
        ]
        return ChildRun([*arguments, *more], number, at, world_size)

    drawn = ("--exits-per-step", "1", "--seed", "2")
    runs = {
        "one": run("one", 1),
        "two": run("two", 2),
        "one drawn": run("one-drawn", 1, 0, *drawn, config="swin.toml"),
        "two drawn": run("two-drawn", 2, 0, *drawn, config="swin.toml"),
        "stopped": run("stopped", 2, signal.SIGTERM),
        "stopped evaluating": run("stopped", 2, signal.SIGTERM, at="evaluate 1"),
        "resumed on one": run("stopped", 1),
    }
    return folder, dict(zip(runs, run_children(folder, list(runs.values())), strict=True))


def lines_of(folder: Path, store: str) -> list[dict[str, Any]]:
    opened = Store(folder / store)
    parent = opened.get(opened.names()["parent"], ParentManifest)
    return [json.loads(line) for line in parent.path_of("metrics.jsonl").read_text().splitlines()]


def weights_of(folder: Path, store: str) -> dict[str, torch.Tensor]:
    opened = Store(folder / store)
    parent = opened.get(opened.names()["parent"], ParentManifest)
    return load_tensors(parent.path_of("model.safetensors"))


def losses(folder: Path, store: str) -> list[float]:
    return [line["loss"] for line in lines_of(folder, store) if "loss" in line]


@pytest.mark.parametrize("suffix", ["", "-drawn"])
def test_run__two_processes_with_half_the_batch_each__losses_of_one(
    results: tuple[Path, dict[str, ChildResult]], suffix: str
) -> None:
    folder, found = results
    assert found["two"].statuses == [0, 0], found["two"].err
    assert found["two drawn"].statuses == [0, 0], found["two drawn"].err
    one, two = losses(folder, f"one{suffix}"), losses(folder, f"two{suffix}")
    assert len(one) == 3
    assert two == pytest.approx(one, rel=2e-5)
    # One evaluation, after the last step, on three images: two for one process, one for the other.
    for world in ("one", "two"):
        assert [line["step"] for line in lines_of(folder, f"{world}{suffix}") if "evaluation" in line] == [3]


def test_run__layers_beyond_the_drawn_exits__are_decayed_by_neither_world(
    results: tuple[Path, dict[str, ChildResult]],
) -> None:
    folder, _ = results
    depths = [max(map(int, line["exits"])) for line in lines_of(folder, "two-drawn") if "loss" in line]
    assert depths == [1, 2, 1], "no step may reach the third layer"
    one, two = (weights_of(folder, store) for store in ("one-drawn", "two-drawn"))
    idle = [name for name in one if ".encoder.layers.2." in name]
    assert len(idle) > 10
    for name in idle:
        # As they were drawn, to the last bit; the decay of one step would take 1e-4 of each.
        assert torch.equal(two[name], one[name]), name


def test_run__signal_to_the_second_process__both_stop_with_5(
    results: tuple[Path, dict[str, ChildResult]],
) -> None:
    folder, found = results
    assert found["stopped"].statuses == [5, 5], found["stopped"].err
    assert "A signal to another process stopped the training after step 2 of 3" in found["stopped"].err
    # It reaches the second process alone while both evaluate, before the last of the three images.
    assert found["stopped evaluating"].statuses == [5, 5], found["stopped evaluating"].err
    assert "A signal to another process stopped the evaluation after step 3 of 3" in found["stopped evaluating"].err
    # The number of processes may change: one finishes what two began.
    assert found["resumed on one"].statuses == [0], found["resumed on one"].err
    assert [line["step"] for line in lines_of(folder, "stopped")] == [1, 2, 3, 3]
    assert losses(folder, "stopped") == pytest.approx(losses(folder, "one"), rel=2e-5)
