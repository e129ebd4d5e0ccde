"""What the losses of Hungarian-matched queries share: class term, normalisers, whose matching counts, sum of the terms.

Axes: P predictions (exits x decoder layers), B images, Q queries, K classes, T objects of the fullest image.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecocli.losses.matcher import assign_queries
from ecocli.losses.points import PointSource


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


@dataclass(frozen=True)
class MatchedCriterion(ABC):
    """A weighted sum of a class term and two terms of the matched regions, which are masks or boxes.

    Both normalisers, the number of objects and the sum of the class weights, are arguments: they follow from the object
    counts alone, so a caller sums them over ranks and over accumulated parts, and the sum of the parts' losses is the
    loss of the big batch. (The originals average the class term per rank.)

    Attributes:
        terms: Names of the terms; each has a weight of its name, which is its weight in the matching too.
        num_classes: K, without "no object".
        class_weight: Weight of the class term.
        no_object_weight: Class weight of "no object"; all others weigh 1.
    """

    terms: ClassVar[tuple[str, str, str]]

    num_classes: int
    class_weight: float = 1.0
    no_object_weight: float = 0.1

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the terms."""
        return tuple(getattr(self, f"{term}_weight") for term in self.terms)

    def class_weight_sum(self, counts: Sequence[int], num_queries: int) -> float:
        """Return the class term's normaliser: 1 per matched query, ``no_object_weight`` per other one."""
        matched = sum(min(count, num_queries) for count in counts)
        return matched + self.no_object_weight * (len(counts) * num_queries - matched)

    def __call__(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_regions: Float[Tensor, "P B Q *region"],
        targets: Any,
        prediction_weights: Float[Tensor, " P"],
        point_source: PointSource | None = None,
        num_objects: float | None = None,
        class_weight_sum: float | None = None,
        matched_by: Sequence[int] | None = None,
    ) -> CriterionOutput:
        """Compute the loss of every prediction and their weighted sum, in float32 also under autocast.

        Args:
            pred_logits: Unnormalised class scores, "no object" last.
            pred_regions: Mask logits; or centres and sizes of boxes, as ratios of the image.
            targets: The objects, packed, on the predictions' device.
            prediction_weights: Weight of each prediction in the total, alpha of its exit.
            point_source: Draws the random points, for a loss that has any.
            num_objects: Objects in the whole step, over all ranks and accumulated parts; at least 1 is used.
                This batch's own if left out.
            class_weight_sum: ``class_weight_sum`` of the whole step. This batch's own if left out.
            matched_by: The prediction whose matching each prediction takes over; its own if left out.
        """
        own_sum = self.class_weight_sum(targets.counts, pred_logits.shape[2])
        norms = (
            own_sum if class_weight_sum is None else class_weight_sum,
            max(float(sum(targets.counts)) if num_objects is None else num_objects, 1.0),
        )
        taken = range(len(pred_logits)) if matched_by is None else matched_by
        with torch.autocast(pred_logits.device.type, enabled=False):
            return self._losses(pred_logits, pred_regions, targets, prediction_weights, point_source, norms, taken)

    @abstractmethod
    def _losses(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_regions: Float[Tensor, "P B Q *region"],
        targets: Any,
        prediction_weights: Float[Tensor, " P"],
        point_source: PointSource | None,
        norms: tuple[float, float],
        taken: Sequence[int],
    ) -> CriterionOutput:
        """The same with what was left out filled in: the normalisers, and whose matching each prediction takes."""

    def output(
        self,
        terms: Sequence[Float[Tensor, " P"]],
        per_image: Float[Tensor, "P B"],
        prediction_weights: Float[Tensor, " P"],
        queries: Int[Tensor, "P B T"],
    ) -> CriterionOutput:
        """Weigh each image's losses ``per_image`` in every prediction, and add them up."""
        shares = prediction_weights.to(device=per_image.device, dtype=torch.float32)[:, None]
        image_losses = (shares * per_image).sum(dim=0)
        return CriterionOutput(
            total=image_losses.sum(),
            terms=dict(zip(self.terms, terms, strict=True)),
            image_losses=image_losses.detach(),
            prediction_losses=per_image.detach(),
            queries=queries,
        )


@dataclass(frozen=True)
class WholeRegionCriterion(MatchedCriterion):
    """One whose regions are compared as they are, without random points."""

    def _losses(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_regions: Float[Tensor, "P B Q *region"],
        targets: Any,
        prediction_weights: Float[Tensor, " P"],
        point_source: PointSource | None,
        norms: tuple[float, float],
        taken: Sequence[int],
    ) -> CriterionOutput:
        logits, regions = pred_logits.float(), pred_regions.float()
        queries = match_owners(
            taken,
            lambda some: assign_queries(self.matching_costs(logits[some], regions[some], targets), targets.counts),
        )
        class_sums = class_loss_sums(logits, targets.labels, queries, self.no_object_weight)
        first, second = self.region_sums(regions, targets, queries)
        terms = (class_sums / norms[0], first / norms[1], second / norms[1])
        zero = torch.zeros_like(terms[0])
        per_image = sum((weight * term for weight, term in zip(self.weights, terms, strict=True)), zero)
        return self.output([term.detach().sum(dim=1) for term in terms], per_image, prediction_weights, queries)

    @abstractmethod
    def matching_costs(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_regions: Float[Tensor, "P B Q *region"],
        targets: Any,
    ) -> Float[Tensor, "P B Q T"]:
        """Compute the cost of giving each query to each object."""

    @abstractmethod
    def region_sums(
        self, pred_regions: Float[Tensor, "P B Q *region"], targets: Any, queries: Int[Tensor, "P B T"]
    ) -> tuple[Float[Tensor, "P B"], Float[Tensor, "P B"]]:
        """Sum either term of the matched regions over the objects of each image; not yet normalised."""


def match_owners(taken: Sequence[int], match: Callable[[list[int]], Int[Tensor, "p B T"]]) -> Int[Tensor, "P B T"]:
    """Match the predictions that others take the matching of, and hand it on.

    Args:
        taken: The prediction whose matching each prediction has.
        match: Matches some predictions.
    """
    owners = sorted(set(taken))
    return match(owners)[[owners.index(owner) for owner in taken]]


def class_loss_sums(
    pred_logits: Float[Tensor, "P B Q K_plus_1"],
    labels: Int[Tensor, "B T"],
    queries: Int[Tensor, "P B T"],
    no_object_weight: float,
) -> Float[Tensor, "P B"]:
    """Sum the weighted cross-entropy over the queries of each image.

    Args:
        pred_logits: Unnormalised class scores, "no object" last.
        labels: Class index of each object.
        queries: The query matched to each object, -1 for none.
        no_object_weight: Weight of the queries without an object; all others weigh 1.
    """
    P, B, Q, no_object = pred_logits.shape[0], pred_logits.shape[1], pred_logits.shape[2], pred_logits.shape[3] - 1
    # Objects without a query are written to an extra column that is cut off.
    classes = torch.full((P, B, Q + 1), no_object, dtype=torch.int64, device=labels.device)
    classes.scatter_(2, torch.where(queries < 0, Q, queries), labels.expand(P, -1, -1))
    classes = classes[..., :Q]
    surprise = -pred_logits.log_softmax(dim=-1).gather(-1, classes[..., None])[..., 0]
    weights = torch.where(classes == no_object, no_object_weight, 1.0)
    return (weights * surprise).sum(dim=-1)
