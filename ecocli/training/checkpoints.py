"""Saved states of an unfinished run: complete or absent, verified on reading, the last two kept.

A state is a sealed folder ``state-<step>`` (``ecocli.runtime.files``) with one safetensors file per group of tensors,
``values.json`` and the metrics up to this step. A damaged state is never used: the one before it is, and the run
repeats the steps between.
"""

import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecocli.errors import UsageError
from ecocli.runtime.files import check_seal, drop_unfinished, sealing

KEPT_STATES = 2

_NAME = re.compile(r"state-(\d{9,})")
_VALUES, _METRICS, _EVALUATION = "values.json", "metrics.jsonl", "evaluation-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """All that a run needs to go on.

    Attributes:
        tensors: Tensors by group, such as ``model``, and name.
        values: Everything else, as JSON data.
        metrics: Lines of the metrics up to this step.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]
    metrics: str = ""


def save_state(folder: Path, state: RunState) -> Path:
    """Write a state, remove the ones that are no longer needed, and return where it lies.

    Args:
        state: What to save; nothing happens if this step is saved already.

    Raises:
        UsageError: The file system refuses; the earlier states are still there.
    """
    target = folder / f"state-{state.step:09d}"
    if target.is_dir():
        return target
    drop_unfinished(folder)
    try:
        with sealing(target, _holds(target)) as place:
            for group, tensors in state.tensors.items():
                plain = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
                _save(place / f"{group}.safetensors", {name: tensor.contiguous() for name, tensor in plain.items()})
            (place / _VALUES).write_text(json.dumps(state.values, sort_keys=True, indent=1))
            (place / _METRICS).write_text(state.metrics)
    except UsageError as error:
        raise UsageError(
            f"The state after step {state.step} could not be saved. {error} The same command resumes from the state "
            "saved before."
        ) from error
    for _, old in _saved(folder)[KEPT_STATES:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # It wraps what the file system said, number included, into its text.
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]) if found else 0, str(error)) from error


def load_state(folder: Path) -> RunState | None:
    """Read the latest state that is intact, and remove those that are not; None where there is none."""
    for step, path in _saved(folder):
        try:
            return _read(path, step)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            _log.warning("The saved state %s is damaged (%s). It is dropped and computed again.", path, error)
            shutil.rmtree(path, ignore_errors=True)
    return None


def save_evaluation(folder: Path, step: int, line: str) -> None:
    """Keep the line of an evaluation that was done after the state of its step was saved.

    Raises:
        UsageError: The file system refuses.
    """
    target = folder / f"{_EVALUATION}{step:09d}"
    earlier = list(folder.glob(f"{_EVALUATION}*"))
    if target not in earlier:
        with sealing(target, _holds(target)) as place:
            (place / _METRICS).write_text(line)
    for path in earlier:
        if path != target:
            shutil.rmtree(path, ignore_errors=True)


def load_evaluation(folder: Path, step: int) -> str:
    """Return what ``save_evaluation`` kept of this step, removed if it is damaged; empty where there is nothing."""
    path = folder / f"{_EVALUATION}{step:09d}"
    if not path.exists():
        return ""
    try:
        check_seal(path, _holds(path))
        return (path / _METRICS).read_text()
    except (OSError, ValueError) as error:
        _log.warning("The evaluation %s is damaged (%s). It is dropped and computed again.", path, error)
        shutil.rmtree(path, ignore_errors=True)
        return ""


def _saved(folder: Path) -> list[tuple[int, Path]]:
    """List complete states, the latest first."""
    if not folder.is_dir():
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _holds(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _read(path: Path, step: int) -> RunState:
    check_seal(path, _holds(path))
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return RunState(step, tensors, json.loads((path / _VALUES).read_text()), (path / _METRICS).read_text())


def optimizer_tensors(optimizers: Iterable[torch.optim.Optimizer], names: Mapping[int, str]) -> dict[str, Tensor]:
    """Return the optimisers' state as ``<parameter name>.<state name>``.

    Args:
        names: Name of each parameter by ``id``.
    """
    return {
        f"{names[id(parameter)]}.{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    optimizers: Iterable[torch.optim.Optimizer], names: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` returned; parameters that never had a gradient have no state."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition(".")
        found.setdefault(parameter_name, {})[key] = tensor
    for optimizer in optimizers:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            state = found.get(names[id(parameter)])
            if state is not None:
                optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
