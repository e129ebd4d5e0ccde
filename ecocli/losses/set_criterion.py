"""DETR's set loss of many predictions at once.

Axes: P predictions (exits x decoder layers), B images, Q queries, K classes, T objects of the fullest image.

Source: DETR (arXiv 2005.12872), models/detr.py and models/matcher.py (29901c5), weighted over exits by ECO-M2F
(arXiv 2404.15244, Eq. 3). Per prediction: class cross-entropy weighted by 0.1 for "no object", and on the matched pairs
the L1 distance of the boxes and 1 - GIoU. The values are the original's; the differences are those of
``ecocli.losses.criterion``: all predictions are one tensor, and both normalisers are arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ecocli.losses.boxes import PackedBoxes, generalised_iou, to_corners
from ecocli.losses.classes import class_loss_sums
from ecocli.losses.matched import CriterionOutput, class_weight_sum, match_owners, sum_terms
from ecocli.losses.matcher import assign_queries


@dataclass(frozen=True)
class SetCriterion:
    """Hungarian-matched class, L1 and GIoU losses.

    Attributes:
        num_classes: K, without "no object".
        class_weight: Weight of the class term, in the matching too.
        box_weight: Weight of the L1 term, in the matching too.
        giou_weight: Weight of the GIoU term, in the matching too.
        no_object_weight: Class weight of "no object"; all others weigh 1.
    """

    num_classes: int
    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    no_object_weight: float = 0.1

    terms: ClassVar[tuple[str, ...]] = ("class", "box", "giou")

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the terms."""
        return (self.class_weight, self.box_weight, self.giou_weight)

    def class_weight_sum(self, counts: Sequence[int], num_queries: int) -> float:
        """Return the class term's normaliser: 1 per matched query, ``no_object_weight`` per other one."""
        return class_weight_sum(counts, num_queries, self.no_object_weight)

    def __call__(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_boxes: Float[Tensor, "P B Q 4"],
        targets: PackedBoxes,
        prediction_weights: Float[Tensor, " P"],
        num_boxes: float | None = None,
        class_weight_sum: float | None = None,
        matched_by: Sequence[int] | None = None,
    ) -> CriterionOutput:
        """Compute the loss of every prediction and their weighted sum, in float32 also under autocast.

        Args:
            pred_logits: Unnormalised class scores, "no object" last.
            pred_boxes: Centre and size, as ratios of the image.
            targets: The objects, on the predictions' device.
            prediction_weights: Weight of each prediction in the total, alpha of its exit.
            num_boxes: Objects in the whole step, over all ranks and accumulated parts; at least 1 is used.
                This batch's own if left out.
            class_weight_sum: ``class_weight_sum`` of the whole step. This batch's own if left out.
            matched_by: The prediction whose matching each prediction takes over; its own if left out.
        """
        P, _, Q, _ = pred_logits.shape
        box_norm = max(float(sum(targets.counts)) if num_boxes is None else num_boxes, 1.0)
        class_norm = self.class_weight_sum(targets.counts, Q) if class_weight_sum is None else class_weight_sum
        with torch.autocast(pred_logits.device.type, enabled=False):
            logits, boxes = pred_logits.float(), pred_boxes.float()
            queries = match_owners(
                P,
                matched_by,
                lambda some: assign_queries(self.matching_costs(logits[some], boxes[some], targets), targets.counts),
            )
            matched = queries >= 0
            per_class = class_loss_sums(logits, targets.labels, queries, self.no_object_weight) / class_norm
            places = queries.clamp(min=0)[..., None].expand(*queries.shape, 4)
            found, wanted = boxes.gather(2, places), targets.boxes.expand(len(boxes), -1, -1, -1)
            # A pair that is none has no distance and no gradient.
            found = torch.where(matched[..., None], found, wanted)
            per_box = (found - wanted).abs().sum(dim=(-1, -2)) / box_norm
            losses = 1.0 - generalised_iou(to_corners(found), to_corners(wanted))
            per_giou = torch.where(matched, losses, 0.0).sum(dim=-1) / box_norm
        return sum_terms(self.terms, self.weights, (per_class, per_box, per_giou), prediction_weights, queries)

    @torch.no_grad()
    def matching_costs(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_boxes: Float[Tensor, "P B Q 4"],
        targets: PackedBoxes,
    ) -> Float[Tensor, "P B Q T"]:
        """Compute the cost of giving each query to each object."""
        P, B, Q, _ = pred_logits.shape
        wanted = targets.labels[None, :, None].expand(P, B, Q, targets.labels.shape[1])
        class_cost = -pred_logits.softmax(dim=-1).gather(-1, wanted)
        found, true = pred_boxes[:, :, :, None], targets.boxes[None, :, None]
        box_cost = (found - true).abs().sum(dim=-1)
        giou_cost = -generalised_iou(to_corners(found), to_corners(true))
        return self.box_weight * box_cost + self.class_weight * class_cost + self.giou_weight * giou_cost
