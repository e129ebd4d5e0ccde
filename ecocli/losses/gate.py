"""What the gate should choose, and how far its scores are from it: utilities, target exits, four losses.

Shapes: N images, E exits (ascending depth). Source: ECO-M2F, arXiv 2404.15244, section 3.3: the utility of exit k on
an image is ``q_k - beta * cost_k`` with q_k the image's panoptic quality in 0..1, and the target exit is its argmax.
The paper's cost is the depth k itself; here it may be any number per exit, or per image and exit (GFLOPs, ms).

Differences from the paper, which leaves these open: utilities that differ by less than ``TIE_TOLERANCE`` count as
equal, so that ties known in decimal notation (0.51 - 3 x 0.01 against 0.50 - 2 x 0.01) go to the shallower exit
whatever the rounding; u-CE clips utilities below zero to zero, because a negative weight on a log-probability has
no minimum. Every gradient is written out, so that a full-batch solver needs no autograd graph over the whole table.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecocli.config.fit_gate import LossName

TIE_TOLERANCE = 1e-12
"""Utilities (PQ in 0..1) closer than this are a tie. Float64 rounding stays three orders of magnitude below."""


def exit_utilities(quality: Float[Tensor, "N E"], costs: Float[Tensor, "#N E"], beta: float) -> Float[Tensor, "N E"]:
    """Give the utility ``quality - beta * cost`` of every exit on every image.

    Args:
        quality: Panoptic quality in 0..1, NaN where undefined.
        costs: Cost of each exit, one row for all images or one per image; any unit, beta is per that unit.
        beta: Price of one unit of cost in panoptic quality, at least 0.

    Returns:
        Utilities in float64; NaN wherever the quality is.
    """
    return quality.double() - beta * costs.double()


def target_exit_indices(utilities: Float[Tensor, "N E"]) -> Int[Tensor, " N"]:
    """Choose the exit of greatest utility on each image; ties go to the shallower exit.

    Args:
        utilities: Defined at every exit; rows with an undefined quality must have been left out.

    Returns:
        Exit indices (positions from 0, not depths).

    Raises:
        ValueError: A utility is NaN.
    """
    if bool(utilities.isnan().any()):
        raise ValueError("target exits need a utility at every exit: leave out rows with undefined quality first")
    within_reach = utilities >= utilities.amax(dim=1, keepdim=True) - TIE_TOLERANCE
    # argmax of a 0/1 row is its first 1: the shallowest of the exits that tie.
    return within_reach.to(torch.uint8).argmax(dim=1)


def loss_targets(utilities: Float[Tensor, "N E"], loss: LossName) -> Float[Tensor, "N E"]:
    """Turn utilities into the per-exit weights that the given loss compares the gate with.

    Args:
        utilities: Defined at every exit.
        loss: ``hard-ce``: 1 at the target exit. ``u-ce``: the utility itself, negative ones clipped to 0.
            ``soft-ce`` and ``soft-mse``: the softmax of the utilities.
    """
    if loss == "hard-ce":
        indices = target_exit_indices(utilities)
        return torch.nn.functional.one_hot(indices, utilities.shape[1]).to(utilities.dtype)
    if loss == "u-ce":
        return utilities.clamp(min=0.0)
    return utilities.softmax(dim=1)


def gate_loss(
    gate_logits: Float[Tensor, "*rows E"], targets: Float[Tensor, "*#rows E"], loss: LossName
) -> Float[Tensor, "*rows"]:
    """Give the loss of every row, differentiable by autograd.

    Args:
        gate_logits: One unnormalised score per exit.
        targets: From ``loss_targets`` for the same loss.
        loss: The cross-entropies sum ``-target * log_softmax(logits)`` over exits; ``soft-mse`` is the squared
            difference between softmax(logits) and the target, averaged over exits.
    """
    return gate_loss_and_gradient(gate_logits, targets, loss)[0]


def gate_loss_and_gradient(
    gate_logits: Float[Tensor, "*rows E"], targets: Float[Tensor, "*#rows E"], loss: LossName
) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows E"]]:
    """Give the loss of every row and its gradient in the logits, without an autograd graph of its own.

    Args:
        gate_logits: One unnormalised score per exit.
        targets: From ``loss_targets`` for the same loss.
        loss: See ``gate_loss``.
    """
    log_probabilities = gate_logits.log_softmax(dim=-1)
    probabilities = log_probabilities.exp()
    if loss == "soft-mse":
        difference = probabilities - targets
        values = difference.square().mean(dim=-1)
        scaled = difference * (2.0 / gate_logits.shape[-1])
        gradient = probabilities * (scaled - (probabilities * scaled).sum(dim=-1, keepdim=True))
        return values, gradient
    values = -(targets * log_probabilities).sum(dim=-1)
    gradient = probabilities * targets.sum(dim=-1, keepdim=True) - targets
    return values, gradient
