"""Curves for TensorBoard and Weights & Biases, where asked for and installed.

Neither package is needed: one that is missing is named once, and training goes on without it. So it does where Weights
& Biases cannot be reached; a folder for TensorBoard that cannot be written is wrong usage.
"""

import importlib
import logging
from typing import Any, Protocol, runtime_checkable

from ecocli.config.train_parent import ExecutionConfig
from ecocli.errors import UsageError
from ecocli.runtime.distributed import World


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
    def __init__(self, folder: str, first_step: int) -> None:
        importlib.import_module("tensorboard")
        module = importlib.import_module("torch.utils.tensorboard")
        # Steps that a killed process wrote after its last saved state come again: the former ones are hidden.
        self._writer: Any = module.SummaryWriter(folder, purge_step=first_step + 1)

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


def open_trackers(execution: ExecutionConfig, log: logging.Logger, world: World, first_step: int) -> list[Tracker]:
    """Start the trackers that are asked for, on the main process; all processes call this together.

    Args:
        execution: Names a folder for TensorBoard and a project for Weights & Biases, or neither.
        log: Told which package is missing, and why Weights & Biases does not start.
        first_step: Steps done before this process; what TensorBoard's folder holds of later ones is hidden.

    Returns:
        The trackers; none on the other processes.

    Raises:
        UsageError: TensorBoard's folder cannot be written; on every process.
    """
    trackers: list[Tracker] = []
    fault = None
    if world.is_main:
        try:
            trackers += _open_tensorboard(execution.tensorboard, log, first_step)
        except UsageError as error:
            fault = str(error)
    if execution.tensorboard is not None:
        fault = world.broadcast_object(fault)
    if fault is not None:
        raise UsageError(fault)
    if world.is_main:
        trackers += _open_wandb(execution.wandb, log)
    return trackers


def _open_tensorboard(folder: str | None, log: logging.Logger, first_step: int) -> list[Tracker]:
    if folder is None:
        return []
    try:
        return [_TensorBoard(folder, first_step)]
    except ImportError:
        _report_missing("tensorboard", log)
        return []
    except OSError as error:
        raise UsageError(
            f"TensorBoard cannot write events to {folder}: {error.strerror or error}. Expected a folder that can be "
            "made and written. Choose another with --set execution.tensorboard=FOLDER, or leave the setting out."
        ) from error


def _open_wandb(project: str | None, log: logging.Logger) -> list[Tracker]:
    if project is None:
        return []
    try:
        return [_Wandb(project)]
    except ImportError:
        _report_missing("wandb", log)
    except Exception as error:  # its own errors share no base class with those of its network client
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("Weights & Biases does not start, so training continues without it: %s", reason)
    return []


def _report_missing(package: str, log: logging.Logger) -> None:
    log.warning("%s is not installed: training continues without it. `pip install %s` adds it.", package, package)
