"""What the losses of Hungarian-matched queries share: normaliser, whose matching counts, and the sum of the terms.

Axes: P predictions (exits x decoder layers), B images, T objects of the fullest image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class CriterionOutput:
    """The losses of a batch.

    Attributes:
        total: Weighted sum over predictions and terms; the only part with a gradient.
        terms: Unweighted terms of each prediction by name.
        image_losses: Each image's share of ``total``; not finite where the image's prediction is not.
        prediction_losses: Each image's weighted sum of terms in each prediction, before ``prediction_weights``.
        queries: The query matched to each object, -1 for none.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, " P"]]
    image_losses: Float[Tensor, " B"]
    prediction_losses: Float[Tensor, "P B"]
    queries: Int[Tensor, "P B T"]


def class_weight_sum(counts: Sequence[int], num_queries: int, no_object_weight: float) -> float:
    """Return the class term's normaliser: 1 per matched query, ``no_object_weight`` per other one."""
    matched = sum(min(count, num_queries) for count in counts)
    return matched + no_object_weight * (len(counts) * num_queries - matched)


def match_owners(
    predictions: int, matched_by: Sequence[int] | None, match: Callable[[list[int]], Int[Tensor, "p B T"]]
) -> Int[Tensor, "P B T"]:
    """Match the predictions that others take the matching of, and hand it on.

    Args:
        predictions: P.
        matched_by: The prediction whose matching each prediction takes over; its own if left out.
        match: Matches some predictions.
    """
    taken = range(predictions) if matched_by is None else matched_by
    owners = sorted(set(taken))
    return match(owners)[[owners.index(owner) for owner in taken]]


def sum_terms(
    names: Sequence[str],
    weights: Sequence[float],
    terms: Sequence[Float[Tensor, "P B"]],
    prediction_weights: Float[Tensor, " P"],
    queries: Int[Tensor, "P B T"],
) -> CriterionOutput:
    """Weigh normalised terms and add them up."""
    per_image = sum((weight * term for weight, term in zip(weights, terms, strict=True)), torch.zeros_like(terms[0]))
    shares = prediction_weights.to(device=per_image.device, dtype=torch.float32)[:, None]
    image_losses = (shares * per_image).sum(dim=0)
    return CriterionOutput(
        total=image_losses.sum(),
        terms={name: term.detach().sum(dim=1) for name, term in zip(names, terms, strict=True)},
        image_losses=image_losses.detach(),
        prediction_losses=per_image.detach(),
        queries=queries,
    )
