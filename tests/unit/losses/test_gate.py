"""Utilities, target exits and the four gate losses, against hand-worked numbers, autograd and the published counts."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocli.losses.gate import (
    LossName,
    exit_utilities,
    gate_loss,
    gate_loss_and_gradient,
    loss_targets,
    target_exit_indices,
)


def test_exit_utilities__depth_as_cost__hand_worked() -> None:
    quality = torch.tensor([[0.5, 0.52, 0.53]])
    costs = torch.tensor([[2.0, 3.0, 4.0]])
    expected = torch.tensor([[0.5 - 0.02, 0.52 - 0.03, 0.53 - 0.04]], dtype=torch.float64)
    torch.testing.assert_close(exit_utilities(quality, costs, 0.01), expected, atol=1e-7, rtol=0)


def test_exit_utilities__cost_per_image__is_used_row_by_row() -> None:
    utilities = exit_utilities(torch.full((2, 2), 0.5), torch.tensor([[1.0, 2.0], [10.0, 20.0]]), 0.01)
    expected = torch.tensor([[0.49, 0.48], [0.4, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(utilities, expected)


def test_target_exit_indices__ties__take_the_shallower() -> None:
    # By hand: exits 0 and 2 tie; the last wins; 0.50 - 2 x 0.01 and 0.51 - 3 x 0.01 are both 0.48 in decimals.
    utilities = torch.tensor(
        [[0.5, 0.4, 0.5], [0.1, 0.2, 0.3], [0.50 - 2 * 0.01, 0.51 - 3 * 0.01, 0.0]], dtype=torch.float64
    )
    assert target_exit_indices(utilities).tolist() == [0, 2, 0]


def test_target_exit_indices__undefined_quality__is_refused() -> None:
    with pytest.raises(ValueError, match="leave out rows with undefined quality first"):
        target_exit_indices(torch.tensor([[0.1, math.nan]]))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    beta=st.sampled_from([0.0, 0.0005, 0.001, 0.003, 0.02, 0.1, 1.0]),
    levels=st.sampled_from([4, 1000]),
)
def test_target_exit_indices__any_table_and_beta__equals_a_plain_loop(seed: int, beta: float, levels: int) -> None:
    # Few levels make ties at beta 0; with beta > 0 the levels are no multiples of it, so only exact ties occur.
    quality = np.random.default_rng(seed).integers(0, levels, (20, 5)) / levels / 1.0000001
    plain = []
    for row in quality.tolist():
        best, chosen = -math.inf, 0
        for index, q in enumerate(row):
            if q - beta * (index + 2) > best + 1e-12:
                best, chosen = q - beta * (index + 2), index
        plain.append(chosen)
    costs = torch.arange(2.0, 7.0)[None]
    assert target_exit_indices(exit_utilities(torch.from_numpy(quality), costs, beta)).tolist() == plain


# Training images per target exit 2..6 in the authors' runs on COCO, as published with the recipe.
PUBLISHED = {
    0.0: (21501, 20545, 20789, 22985, 32467),
    0.0005: (27303, 23991, 22626, 21509, 22858),
    0.02: (80559, 20637, 9867, 4917, 2307),
}


def test_target_exit_indices__table_made_to_the_published_counts__finds_them_at_every_beta() -> None:
    # A table whose best exits move as published: sorted by depth, image n has its target at the n-th place of each
    # histogram, which never deepens as beta grows. Per layer saved, an image loses 0.00025 of PQ from its first to
    # its second target (more than 0, less than 0.0005 a layer) and 0.01 to its third (between 0.0005 and 0.02).
    first, second, third = (np.repeat(np.arange(2, 7), PUBLISHED[beta]) for beta in (0.0, 0.0005, 0.02))
    assert len(first) == 118_287
    images = np.arange(len(first))
    quality = np.zeros((len(first), 5))
    quality[images, third - 2] = 0.6 - 0.00025 * (first - second) - 0.01 * (second - third)
    quality[images, second - 2] = 0.6 - 0.00025 * (first - second)
    quality[images, first - 2] = 0.6
    for beta, counts in PUBLISHED.items():
        utilities = exit_utilities(torch.from_numpy(quality), torch.arange(2.0, 7.0)[None], beta)
        assert tuple(target_exit_indices(utilities).bincount(minlength=5).tolist()) == counts


def test_loss_targets__one_image__hand_worked() -> None:
    utilities = torch.tensor([[math.log(1.0), math.log(3.0)], [0.25, -0.5]])
    torch.testing.assert_close(loss_targets(utilities, "hard-ce"), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    # The softmax of log 1 and log 3 is 1/4 and 3/4.
    torch.testing.assert_close(loss_targets(utilities, "soft-ce")[0], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(loss_targets(utilities, "soft-mse")[0], torch.tensor([0.25, 0.75]))
    # A negative utility counts as 0, a positive one as itself.
    torch.testing.assert_close(loss_targets(utilities, "u-ce")[1], torch.tensor([0.25, 0.0]))


@pytest.mark.parametrize(
    ("loss", "targets", "expected"),
    [
        # Logits (0, log 3) have probabilities 1/4 and 3/4.
        ("hard-ce", (1.0, 0.0), math.log(4.0)),
        ("u-ce", (0.5, 0.2), 0.5 * math.log(4.0) + 0.2 * math.log(4.0 / 3.0)),
        ("soft-ce", (0.5, 0.5), 0.5 * math.log(4.0) + 0.5 * math.log(4.0 / 3.0)),
        # Mean of (1/4 - 1/2)^2 and (3/4 - 1/2)^2.
        ("soft-mse", (0.5, 0.5), 0.0625),
    ],
)
def test_gate_loss__two_exits__hand_worked(loss: LossName, targets: tuple[float, float], expected: float) -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    value = gate_loss(logits, torch.tensor([targets], dtype=torch.float64), loss)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", get_args(LossName))
def test_gate_loss_and_gradient__random_rows__equals_autograd(loss: LossName) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = loss_targets(torch.rand(6, 4, dtype=torch.float64, generator=generator), loss)
    values, gradient = gate_loss_and_gradient(logits.detach(), targets, loss)
    (expected,) = torch.autograd.grad(gate_loss(logits, targets, loss).sum(), logits)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(values, gate_loss(logits, targets, loss).detach())
