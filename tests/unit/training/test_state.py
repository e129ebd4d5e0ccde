"""What one step of the optimiser changes, and what it leaves alone when the gradients are not finite."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_training import tiny_config, tiny_model
from torch import Tensor

from ecocli.model.mask2former import Mask2Former
from ecocli.runtime.distributed import World
from ecocli.training.state import TrainingState

LEARNING_RATE = 0.01


def new_state(folder: Path, model: Mask2Former, **changes: Any) -> TrainingState:
    return TrainingState(tiny_config(**changes), model, torch.device("cpu"), World(), folder)


def apply_filled(state: TrainingState, model: Mask2Former, value: float) -> float | None:
    """Apply gradients that all have one value, after the loss scale."""
    state.scaled(torch.ones(()))  # the scale exists from the first loss on
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return state.apply_gradients(LEARNING_RATE)


def copy_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def is_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_apply_gradients__finite__norm_before_clipping(tmp_path: Path) -> None:
    model = tiny_model()
    before = copy_of(model.state_dict())
    norm = apply_filled(new_state(tmp_path, model, optimizer={"clip_norm": 0.5}), model, 2.0)
    # By hand: n entries of 2 have the norm 2 sqrt(n).
    assert norm == pytest.approx(2 * math.sqrt(sum(p.numel() for p in model.parameters())), rel=1e-5)
    assert not is_same(model.state_dict(), before)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_apply_gradients__float16_overflow__neither_weights_nor_average_move(tmp_path: Path, kind: str) -> None:
    model = tiny_model()
    state = new_state(tmp_path, model, precision="float16", optimizer={"kind": kind, "ema_decay": 0.75})
    # One good step first: from then on the average is not the weights, and would move towards them.
    assert apply_filled(state, model, 65536.0) is not None
    weights, average = copy_of(model.state_dict()), copy_of(state.weights())
    assert not is_same(weights, average)
    assert apply_filled(state, model, math.inf) is None
    assert is_same(model.state_dict(), weights)
    assert is_same(state.weights(), average)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_apply_gradients__float16_overflows_forever__norm_at_a_scale_of_one(tmp_path: Path, value: float) -> None:
    model = tiny_model()
    state = new_state(tmp_path, model, precision="float16")
    # By hand: 65536 halved 16 times is 1.
    assert [apply_filled(state, model, value) for _ in range(16)] == [None] * 16
    norm = apply_filled(state, model, value)
    assert norm is not None
    assert not math.isfinite(norm)


def test_apply_gradients__float16_good_step_after_overflows__goes_on(tmp_path: Path) -> None:
    model = tiny_model()
    state = new_state(tmp_path, model, precision="float16")
    assert [apply_filled(state, model, math.inf) for _ in range(3)] == [None] * 3
    before = copy_of(model.state_dict())
    # By hand: the scale is 8192, so the gradients are 1 each.
    norm = apply_filled(state, model, 8192.0)
    assert norm == pytest.approx(math.sqrt(sum(p.numel() for p in model.parameters())), rel=1e-5)
    assert not is_same(model.state_dict(), before)


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_apply_gradients__finite_gradients_of_infinite_norm__norm_and_nothing_changed(
    tmp_path: Path, precision: str
) -> None:
    # Squares of 1e30 overflow in float32; no loss scale changes that. Without a bound, clipping would divide by it.
    model = tiny_model()
    state = new_state(tmp_path, model, precision=precision, optimizer={"clip_norm": 0.0})
    before = copy_of(model.state_dict())
    assert apply_filled(state, model, 1e30) == math.inf
    assert is_same(model.state_dict(), before)


def test_apply_gradients__float32_not_finite__norm_at_once(tmp_path: Path) -> None:
    model = tiny_model()
    before = copy_of(model.state_dict())
    assert apply_filled(new_state(tmp_path, model), model, math.inf) == math.inf
    assert is_same(model.state_dict(), before)


def test_save__lowered_loss_scale__goes_on_at_it(tmp_path: Path) -> None:
    model = tiny_model()
    state = new_state(tmp_path, model, precision="float16")
    assert apply_filled(state, model, math.inf) is None
    state.step = 1
    state.save()
    resumed = new_state(tmp_path, tiny_model(), precision="float16")
    # torch's first scale is 2 ** 16, and an overflow halves it.
    assert resumed.step == 1
    assert resumed.scaled(torch.ones(())).item() == state.scaled(torch.ones(())).item() == 2.0**15
