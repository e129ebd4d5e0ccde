import logging
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from ecocli.errors import UsageError
from ecocli.training.checkpoints import RunState, load_state, save_state


def state_after(step: int) -> RunState:
    tensors = {
        "model": {"a.weight": torch.full((2, 3), float(step)).t()},
        "optimizer": {"a.weight.step": torch.tensor(1.5)},
    }
    return RunState(step, tensors, {"scaler": {}, "window": {"loss": [0.1, step]}})


def test_save_state__read_back__same_values_and_bits(tmp_path: Path) -> None:
    save_state(tmp_path, state_after(7))
    found = load_state(tmp_path)
    assert found is not None
    assert found.step == 7
    assert found.values == {"scaler": {}, "window": {"loss": [0.1, 7]}}
    assert torch.equal(found.tensors["model"]["a.weight"], torch.full((3, 2), 7.0))
    assert torch.equal(found.tensors["optimizer"]["a.weight.step"], torch.tensor(1.5))


def test_save_state__many__keeps_last_two_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".unfinished-{socket.gethostname()}-{dead.pid}-0123"
    left.mkdir()
    for step in (1, 2, 3, 12):
        save_state(tmp_path, state_after(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-000000003", "state-000000012"]
    found = load_state(tmp_path)
    assert found is not None
    assert found.step == 12


def test_save_state__same_step_again__keeps_the_first(tmp_path: Path) -> None:
    first = save_state(tmp_path, state_after(3))
    before = (first / "values.json").stat().st_mtime_ns
    assert save_state(tmp_path, state_after(3)) == first
    assert (first / "values.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "json", "step"])
def test_load_state__latest_damaged__warns_and_takes_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    save_state(tmp_path, state_after(1))
    latest = save_state(tmp_path, state_after(2))
    weights = latest / "model.safetensors"
    data = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncate":
        weights.write_bytes(data[: len(data) // 2])
    elif damage == "remove":
        weights.unlink()
    elif damage == "json":
        (latest / "values.json").write_text("{")
    else:
        latest.rename(tmp_path / "state-000000005")
    with caplog.at_level(logging.WARNING):
        found = load_state(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "is damaged" in caplog.text


def test_load_state__nothing_there__none(tmp_path: Path) -> None:
    assert load_state(tmp_path / "missing") is None
    (tmp_path / ".unfinished-host-1-0123").mkdir()
    assert load_state(tmp_path) is None


def test_save_state__folder_cannot_be_made__says_where(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match=r"state after step 4 could not be saved\. Cannot write .*taken"):
        save_state(tmp_path / "taken", state_after(4))
