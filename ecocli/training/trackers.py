"""Curves for TensorBoard and Weights & Biases, where asked for and installed.

Neither package is needed: one that is missing is named once, and training goes on without it.
"""

import importlib
import logging
from typing import Any, Protocol, runtime_checkable

from ecocli.config.train_parent import ExecutionConfig


@runtime_checkable
class Tracker(Protocol):
    """Receives the means of each window of steps, and the qualities of each evaluation."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Take the values after a step."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...


class _TensorBoard:
    def __init__(self, folder: str) -> None:
        importlib.import_module("tensorboard")
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer: Any = module.SummaryWriter(folder)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name.replace(".", "/"), value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, project: str) -> None:
        self._run: Any = importlib.import_module("wandb").init(project=project)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log({name.replace(".", "/"): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


def open_trackers(execution: ExecutionConfig, log: logging.Logger) -> list[Tracker]:
    """Start the trackers that are asked for.

    Args:
        execution: Names a folder for TensorBoard and a project for Weights & Biases, or neither.
        log: Told which package is missing.
    """
    trackers: list[Tracker] = []
    for package, target, make in (
        ("tensorboard", execution.tensorboard, _TensorBoard),
        ("wandb", execution.wandb, _Wandb),
    ):
        if target is None:
            continue
        try:
            trackers.append(make(target))
        except ImportError:
            log.warning("%s is not installed: training goes on without it. `pip install %s` adds it.", package, package)
    return trackers
