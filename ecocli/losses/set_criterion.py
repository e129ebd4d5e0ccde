"""DETR's set loss of many predictions at once.

Axes: P predictions (exits x decoder layers), B images, Q queries, K classes, T objects of the fullest image.

Source: DETR (arXiv 2005.12872), models/detr.py and models/matcher.py (29901c5), weighted over exits by ECO-M2F
(arXiv 2404.15244, Eq. 3). Per prediction: class cross-entropy weighted by 0.1 for "no object", and on the matched pairs
the L1 distance of the boxes and 1 - GIoU. The values are the original's; the differences are those of
``ecocli.losses.criterion``: all predictions are one tensor, and both normalisers are arguments.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecocli.losses.boxes import PackedBoxes, generalised_iou, to_corners
from ecocli.losses.matched import WholeRegionCriterion


@dataclass(frozen=True)
class SetCriterion(WholeRegionCriterion):
    """Hungarian-matched class, L1 and GIoU losses."""

    terms: ClassVar[tuple[str, str, str]] = ("class", "box", "giou")

    box_weight: float = 5.0
    giou_weight: float = 2.0

    def region_sums(
        self, pred_regions: Float[Tensor, "P B Q 4"], targets: PackedBoxes, queries: Int[Tensor, "P B T"]
    ) -> tuple[Float[Tensor, "P B"], Float[Tensor, "P B"]]:
        """Sum the L1 distances and 1 - GIoU."""
        matched = queries >= 0
        places = queries.clamp(min=0)[..., None].expand(*queries.shape, 4)
        found, wanted = pred_regions.gather(2, places), targets.boxes.expand(len(pred_regions), -1, -1, -1)
        # A pair that is none has no distance and no gradient.
        found = torch.where(matched[..., None], found, wanted)
        losses = 1.0 - generalised_iou(to_corners(found), to_corners(wanted))
        return (found - wanted).abs().sum(dim=(-1, -2)), torch.where(matched, losses, 0.0).sum(dim=-1)

    @torch.no_grad()
    def matching_costs(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_regions: Float[Tensor, "P B Q 4"],
        targets: PackedBoxes,
    ) -> Float[Tensor, "P B Q T"]:
        """Compare boxes."""
        P, B, Q, _ = pred_logits.shape
        wanted = targets.labels[None, :, None].expand(P, B, Q, targets.labels.shape[1])
        class_cost = -pred_logits.softmax(dim=-1).gather(-1, wanted)
        found, true = pred_regions[:, :, :, None], targets.boxes[None, :, None]
        box_cost = (found - true).abs().sum(dim=-1)
        giou_cost = -generalised_iou(to_corners(found), to_corners(true))
        return self.box_weight * box_cost + self.class_weight * class_cost + self.giou_weight * giou_cost
