"""Trainings that are killed or stopped resume and end in the digest of an undisturbed one."""

import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_children import ChildResult, ChildRun, run_children
from helpers_train_parent import settings

from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors

# The runs below are told by files of settings, as a user's would be.


def command(folder: Path, store: str, *more: str) -> list[str]:
    return [
        "train-parent",
        "--config",
        str(folder / "tiny.toml"),
        "--store",
        str(folder / store),
        "--device",
        "cpu",
        *more,
    ]


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, list[ChildResult]]:
    """One undisturbed run, one killed five times, one stopped twice by SIGTERM; a command per process.

    The deepest exit is trained alone for three steps, then all. The exits are evaluated after steps 3 and 6, each time
    in two batches.
    """
    folder = tmp_path_factory.mktemp("runs")
    evaluation = {"every": 3, "images": 3, "batch_size": 2}
    exits = {"deepest_first": 0.5, "loss": {"matching": "deepest"}}
    config = settings(data_root, steps=6, evaluation=evaluation, **exits).model_dump(mode="json")
    lines = []
    write_toml(lines, "", {**config, "execution": {"checkpoint_every": 2}})
    (folder / "tiny.toml").write_text("\n".join(lines).replace("num_classes = 3", "num_classes = 13"))
    root = ("--data-root", str(data_root))
    # Two moments at random, new in every test run: the property holds at all of them.
    chance = random.SystemRandom()
    kills = [f"step {chance.randrange(0, 3)}", "save 1", f"step {chance.randrange(0, 2)}", "save 3"]
    kills.append(f"evaluate {chance.randrange(0, 2)}")
    runs = [
        ChildRun(command(folder, "calm", *root)),
        *(ChildRun(command(folder, "killed", *root), signal.SIGKILL, at) for at in kills),
        ChildRun(command(folder, "killed", *root)),
        ChildRun(command(folder, "stopped", *root, "--workers", "1"), signal.SIGTERM, "step 1"),
        ChildRun(command(folder, "stopped", *root, "--workers", "1"), signal.SIGTERM, "evaluate 1"),
        ChildRun(command(folder, "stopped", *root)),
        ChildRun(command(folder, "stopped", *root)),
    ]
    return folder, run_children(folder, runs)


def write_toml(lines: list[str], prefix: str, section: dict[str, Any]) -> None:
    """Write settings as dotted TOML keys."""
    for key, value in section.items():
        if isinstance(value, dict):
            write_toml(lines, f"{prefix}{key}.", value)
        elif value is not None:
            lines.append(f"{prefix}{key} = {json.dumps(value)}")


def test_run__killed_five_times__same_digest_as_undisturbed(disturbed: tuple[Path, list[ChildResult]]) -> None:
    folder, results = disturbed
    assert [result.statuses for result in results[:7]] == [[0], *5 * [[-9]], [0]], results
    assert results[6].out == results[0].out
    calm, killed = Store(folder / "calm"), Store(folder / "killed")
    digest = results[0].out.strip()
    weights = [load_tensors(store.get(digest, ParentManifest).path_of("model.safetensors")) for store in (calm, killed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any((folder / "killed" / "eco" / "runs").iterdir())


def test_run__sigterm__exits_5_and_same_command_completes(disturbed: tuple[Path, list[ChildResult]]) -> None:
    folder, results = disturbed
    stopped, evaluating, resumed, again = results[7:]
    assert stopped.statuses == [5]
    assert stopped.out == ""
    assert "error: SIGTERM stopped the training after step 2 of 6. The state is saved in" in stopped.err
    assert "the same command resumes there." in stopped.err
    # A signal stops the evaluation after step 3 between its batches; the next run makes up for it.
    assert evaluating.statuses == [5]
    assert "error: SIGTERM stopped the evaluation after step 3 of 6. The state is saved in" in evaluating.err
    assert "PQ on" not in evaluating.err
    assert resumed.statuses == [0]
    assert re.findall(r"step (\d): PQ on 3 images at exits 1 2 3: ", resumed.err) == ["3", "6"]
    # One line of stdout: the digest, the same as without the interruption.
    assert resumed.out == results[0].out
    assert "training 6/6 step" in resumed.err
    provenance = folder / "stopped" / "eco" / "provenance" / f"{resumed.out.strip().removeprefix('sha256:')}.json"
    assert json.loads(provenance.read_text())["resumed_at_step"] == 3
    assert again.statuses == [0]
    assert again.out == resumed.out
    assert "training" not in again.err
