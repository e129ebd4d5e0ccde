import logging
import sys
import types

import pytest

from ecocli.config.train_parent import ExecutionConfig
from ecocli.training.trackers import open_trackers


class Recorder:
    """Stands in for SummaryWriter and for a run of Weights & Biases."""

    def __init__(self, target: str) -> None:
        self.calls: list[object] = [target]

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.calls.append((name, value, step))

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append((values, step))

    def close(self) -> None:
        self.calls.append("closed")

    finish = close


def test_open_trackers__nothing_asked__none() -> None:
    assert open_trackers(ExecutionConfig(), logging.getLogger("test")) == []


def test_open_trackers__packages_missing__each_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    trackers = open_trackers(ExecutionConfig(tensorboard="events", wandb="eco"), logging.getLogger("test"))
    assert trackers == []
    assert [record.getMessage() for record in caplog.records] == [
        "tensorboard is not installed: training goes on without it. `pip install tensorboard` adds it.",
        "wandb is not installed: training goes on without it. `pip install wandb` adds it.",
    ]


def test_open_trackers__packages_there__receive_values(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recorder] = []

    def make(target: str = "", project: str = "") -> Recorder:
        made.append(Recorder(target or project))
        return made[-1]

    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    writer = types.ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(writer, "SummaryWriter", make, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    wandb = types.ModuleType("wandb")
    monkeypatch.setattr(wandb, "init", make, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    trackers = open_trackers(ExecutionConfig(tensorboard="events", wandb="eco"), logging.getLogger("test"))
    for tracker in trackers:
        tracker.write(20, {"exits.2.loss": 1.5})
        tracker.close()
    assert [recorder.calls for recorder in made] == [
        ["events", ("exits/2/loss", 1.5, 20), "closed"],
        ["eco", ({"exits/2/loss": 1.5}, 20), "closed"],
    ]
