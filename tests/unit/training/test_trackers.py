import logging
import sys
import types
from collections.abc import Callable
from typing import TypeVar, cast

import pytest

from ecocli.config.train_parent import ExecutionConfig
from ecocli.errors import UsageError
from ecocli.runtime.distributed import World
from ecocli.training.trackers import Tracker, open_trackers

T = TypeVar("T")


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


def opened(first_step: int = 0, world: World | None = None, **targets: str) -> list[Tracker]:
    return open_trackers(ExecutionConfig(**targets), logging.getLogger("ecocli.test"), world or World(), first_step)


def install(
    monkeypatch: pytest.MonkeyPatch, *, writer: Callable[..., object] = Recorder, init: Callable[..., object] = Recorder
) -> None:
    """Put stand-ins for both packages in place."""
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    module = types.ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(module, "SummaryWriter", writer, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    wandb = types.ModuleType("wandb")
    monkeypatch.setattr(wandb, "init", init, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)


def test_open_trackers__nothing_asked__none() -> None:
    assert opened() == []


def test_open_trackers__packages_missing__each_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert opened(tensorboard="events", wandb="eco") == []
    assert [record.getMessage() for record in caplog.records] == [
        "tensorboard is not installed: training continues without it. `pip install tensorboard` adds it.",
        "wandb is not installed: training continues without it. `pip install wandb` adds it.",
    ]


def test_open_trackers__packages_there__receive_values(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recorder] = []

    def make(target: str = "", project: str = "", purge_step: int | None = None) -> Recorder:
        made.append(Recorder(target or project))
        if purge_step is not None:
            made[-1].calls.append(purge_step)
        return made[-1]

    install(monkeypatch, writer=make, init=make)
    for tracker in opened(first_step=16, tensorboard="events", wandb="eco"):
        tracker.write(20, {"exits.2.loss": 1.5})
        tracker.close()
    # A killed process may have written steps from 17 on, and this one writes them again.
    assert [recorder.calls for recorder in made] == [
        ["events", 17, ("exits/2/loss", 1.5, 20), "closed"],
        ["eco", ({"exits/2/loss": 1.5}, 20), "closed"],
    ]


def test_open_trackers__folder_cannot_be_written__raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str, purge_step: int) -> object:
        raise PermissionError(13, "Permission denied", folder)

    install(monkeypatch, writer=refuse)
    words = r"^TensorBoard cannot write events to /proc/events: Permission denied\. Expected a folder that can be"
    with pytest.raises(UsageError, match=words):
        opened(tensorboard="/proc/events")


def test_open_trackers__wandb_fails__warns_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(project: str) -> object:
        raise RuntimeError("no API key configured\nlong advice")

    install(monkeypatch, init=refuse)
    assert opened(wandb="eco") == []
    assert [record.getMessage() for record in caplog.records] == [
        "Weights & Biases does not start, so training continues without it: no API key configured"
    ]


def test_open_trackers__another_process_than_the_main_one__opens_nothing_but_stops_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Second(World):
        """The second of two processes, told what the main one broadcasts."""

        said: str | None = None

        def broadcast_object(self, obj: T) -> T:
            return cast(T, self.said)

    install(monkeypatch, writer=pytest.fail, init=pytest.fail)
    world = Second(rank=1, world_size=2)
    assert opened(world=world, tensorboard="events", wandb="eco") == []
    monkeypatch.setattr(Second, "said", "TensorBoard cannot write")
    with pytest.raises(UsageError, match=r"^TensorBoard cannot write$"):
        opened(world=world, tensorboard="events")
