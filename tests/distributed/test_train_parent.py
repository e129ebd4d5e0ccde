"""Step A on two gloo processes: the same losses as on one, and one stop for both."""

import json
import signal
from pathlib import Path

import pytest
from helpers_children import ChildResult, ChildRun, run_children

from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store

_TOML = """
batch_size = 4
steps = 3
log_every = 1
exit_depths = [1, 2, 3]
exits_per_step = "all"
alpha = "depth"
keep_deepest = false
architecture.name = "tiny"
architecture.backbone = { kind = "resnet", blocks = [1, 1, 1, 1], stem_channels = 8, res2_channels = 16, \
bottleneck_channels = 8, norm = "gn" }
architecture.pixel_decoder = { hidden_dim = 32, mask_dim = 16, encoder_layers = 3, heads = 2, points = 2, \
feedforward_dim = 32 }
architecture.transformer_decoder = { layers = 1, heads = 2, feedforward_dim = 32, num_queries = 6 }
loss.num_points = 64
dataset.shapes = { train = 12, val = 4, scenes = { size = 64 } }
optimizer.lr = 2e-3
schedule = { kind = "constant" }
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ChildResult]]:
    """The same training on one process and on two, with all exits and with one drawn exit; and a stopped one."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "tiny.toml").write_text(_TOML)

    def run(store: str, world_size: int, number: int = 0, *more: str) -> ChildRun:
        arguments = [
            "train-parent",
            "--config",
            "tiny.toml",
            "--data-root",
            "data",
            "--store",
            store,
            "--device",
            "cpu",
        ]
        return ChildRun([*arguments, *more], number, "step 1", world_size)

    drawn = ("--exits-per-step", "1")
    runs = {
        "one": run("one", 1),
        "two": run("two", 2),
        "one drawn": run("one-drawn", 1, 0, *drawn),
        "two drawn": run("two-drawn", 2, 0, *drawn),
        "stopped": run("stopped", 2, signal.SIGTERM),
        "resumed on one": run("stopped", 1),
    }
    return folder, dict(zip(runs, run_children(folder, list(runs.values())), strict=True))


def losses(folder: Path, store: str) -> list[float]:
    opened = Store(folder / store)
    parent = opened.get(opened.names()["parent"], ParentManifest)
    return [json.loads(line)["loss"] for line in parent.path_of("metrics.jsonl").read_text().splitlines()]


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


def test_run__signal_to_the_second_process__both_stop_with_5(
    results: tuple[Path, dict[str, ChildResult]],
) -> None:
    folder, found = results
    assert found["stopped"].statuses == [5, 5], found["stopped"].err
    assert "A signal to another process stopped the training after step 2 of 3" in found["stopped"].err
    # The number of processes may change: one finishes what two began.
    assert found["resumed on one"].statuses == [0], found["resumed on one"].err
    assert losses(folder, "stopped") == pytest.approx(losses(folder, "one"), rel=2e-5)
