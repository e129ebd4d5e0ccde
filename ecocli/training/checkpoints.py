"""Saved states of an unfinished run: complete or absent, verified on reading, the last two kept.

A state is a folder ``state-<step>`` with one safetensors file per group of tensors and ``state.json``, which holds
everything else and the SHA-256 of each file. It is written under another name and renamed when all of it is on
the disk. A damaged state is never used: the one before it is, and the run repeats the steps between.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecocli.errors import UsageError

KEPT_STATES = 2

_NAME = re.compile(r"state-(\d{9,})")
_UNFINISHED = ".saving-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """All that a run needs to go on.

    Attributes:
        step: Steps done.
        tensors: Tensors by group, such as ``model``, and name.
        values: Everything else, as JSON data.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


def save_state(folder: Path, state: RunState) -> Path:
    """Write a state and remove the ones that are no longer needed.

    Args:
        folder: Folder of the run.
        state: What to save; nothing happens if this step is saved already.

    Returns:
        Where the state lies.

    Raises:
        UsageError: The file system refuses; the earlier states are still there.
    """
    target = folder / f"state-{state.step:09d}"
    if target.is_dir():
        return target
    unfinished = folder / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        unfinished.mkdir()
        digests = {}
        for group, tensors in state.tensors.items():
            path = unfinished / f"{group}.safetensors"
            plain = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
            save_file({name: tensor.contiguous() for name, tensor in plain.items()}, path)
            digests[group] = _sync_and_digest(path)
        description = {"step": state.step, "values": state.values, "files": digests}
        (unfinished / "state.json").write_text(json.dumps(description, sort_keys=True, indent=1))
        _sync_and_digest(unfinished / "state.json")
        unfinished.rename(target)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UsageError(
            f"The state after step {state.step} could not be saved in {folder} ({error.strerror or error}). Make room "
            "there or name another store with --store; the same command goes on from the state saved before."
        ) from error
    for _, old in _saved(folder)[KEPT_STATES:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_state(folder: Path) -> RunState | None:
    """Read the latest state that is intact; None where there is none."""
    for step, path in _saved(folder):
        try:
            return _read(path, step)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("The saved state %s is damaged (%s) and not used.", path, error)
    return None


def _saved(folder: Path) -> list[tuple[int, Path]]:
    """List complete states, the latest first."""
    if not folder.is_dir():
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _read(path: Path, step: int) -> RunState:
    description = json.loads((path / "state.json").read_text())
    if description["step"] != step:
        raise ValueError(f"it is of step {description['step']}, expected {step}")
    tensors = {}
    for group, expected in description["files"].items():
        file = path / f"{group}.safetensors"
        found = _digest(file)
        if found != expected:
            raise ValueError(f"{file.name} has SHA-256 {found}, expected {expected}")
        tensors[group] = load_file(file)
    return RunState(step, tensors, description["values"])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_digest(path: Path) -> str:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _digest(path)


def _sync_folder(folder: Path) -> None:
    # Some network file systems refuse to sync a folder; the rename is then as durable as they make it.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """Return an optimiser's state as ``<parameter name>.<state name>``.

    Args:
        optimizer: The optimiser.
        names: Name of each parameter by ``id``.
    """
    return {
        f"{names[id(parameter)]}.{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` returned; parameters that never had a gradient have no state."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition(".")
        found.setdefault(parameter_name, {})[key] = tensor
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = found.get(names[id(parameter)])
            if state is not None:
                optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
