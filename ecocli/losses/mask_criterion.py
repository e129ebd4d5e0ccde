"""MaskFormer's loss of many predictions at once.

Axes: P predictions (exits x decoder layers), B images, Q queries, K classes, T objects of the fullest image, H W
pixels, h w pixels of a predicted mask.

Source: MaskFormer (arXiv 2107.06278), in transformers' ``MaskFormerLoss`` and ``MaskFormerHungarianMatcher``, weighted
over exits by ECO-M2F (arXiv 2404.15244, Eq. 3). Per prediction: class cross-entropy weighted by 0.1 for "no object",
and on all pixels of the matched masks focal loss and dice. The matching compares masks at the predictions' size, the
losses at the images'. The values are the original's; the differences are those of ``ecocli.losses.criterion``: packed
targets, and both normalisers are arguments. Nothing is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ecocli.losses.classes import class_loss_sums
from ecocli.losses.matched import CriterionOutput, class_weight_sum, match_owners, sum_terms
from ecocli.losses.matcher import assign_queries
from ecocli.losses.targets import PackedTargets

_ALPHA, _GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class MaskCriterion:
    """Hungarian-matched class, focal and dice losses.

    Attributes:
        num_classes: K, without "no object".
        class_weight: Weight of the class term, in the matching too.
        focal_weight: Weight of the focal term, in the matching too.
        dice_weight: Weight of the dice term, in the matching too.
        no_object_weight: Class weight of "no object"; all others weigh 1.
    """

    num_classes: int
    class_weight: float = 1.0
    focal_weight: float = 20.0
    dice_weight: float = 1.0
    no_object_weight: float = 0.1

    terms: ClassVar[tuple[str, ...]] = ("class", "focal", "dice")

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the terms."""
        return (self.class_weight, self.focal_weight, self.dice_weight)

    def __call__(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_masks: Float[Tensor, "P B Q h w"],
        targets: PackedTargets,
        prediction_weights: Float[Tensor, " P"],
        num_masks: float | None = None,
        class_weight_sum: float | None = None,
        matched_by: Sequence[int] | None = None,
    ) -> CriterionOutput:
        """Compute the loss of every prediction and their weighted sum, in float32 also under autocast.

        Args:
            pred_logits: Unnormalised class scores, "no object" last.
            pred_masks: Mask logits.
            targets: The objects, on the predictions' device.
            prediction_weights: Weight of each prediction in the total, alpha of its exit.
            num_masks: Objects in the whole step, over all ranks and accumulated parts; at least 1 is used.
                This batch's own if left out.
            class_weight_sum: ``class_weight_sum`` of the whole step. This batch's own if left out.
            matched_by: The prediction whose matching each prediction takes over; its own if left out.
        """
        P, _, Q, _ = pred_logits.shape
        mask_norm = max(float(sum(targets.counts)) if num_masks is None else num_masks, 1.0)
        class_norm = self.class_weight_sum(targets.counts, Q) if class_weight_sum is None else class_weight_sum
        with torch.autocast(pred_logits.device.type, enabled=False):
            logits, masks = pred_logits.float(), pred_masks.float()
            queries = match_owners(
                P,
                matched_by,
                lambda some: assign_queries(self.matching_costs(logits[some], masks[some], targets), targets.counts),
            )
            per_class = class_loss_sums(logits, targets.labels, queries, self.no_object_weight) / class_norm
            sums = [self._mask_sums(masks[p], targets, queries[p]) for p in range(P)]
            focal, dice = (torch.stack([pair[part] for pair in sums]) / mask_norm for part in (0, 1))
        return sum_terms(self.terms, self.weights, (per_class, focal, dice), prediction_weights, queries)

    def class_weight_sum(self, counts: Sequence[int], num_queries: int) -> float:
        """Return the class term's normaliser: 1 per matched query, ``no_object_weight`` per other one."""
        return class_weight_sum(counts, num_queries, self.no_object_weight)

    def _mask_sums(
        self, masks: Float[Tensor, "B Q h w"], targets: PackedTargets, queries: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Sum focal loss and dice over the objects of each image, at the images' size; not yet normalised."""
        image, place = torch.nonzero(queries >= 0, as_tuple=True)
        zeros = masks.new_zeros(len(masks))
        if not len(image):
            # Nothing is matched: still a sum that reaches the masks.
            return zeros + 0.0 * masks.sum(), zeros
        wanted = targets.masks[image, place].float().flatten(1)
        found = masks[image, queries[image, place]][:, None]
        found = F.interpolate(found, size=targets.masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0].flatten(
            1
        )
        p = found.sigmoid()
        surprise = F.binary_cross_entropy_with_logits(found, wanted, reduction="none")
        right = p * wanted + (1 - p) * (1 - wanted)
        alpha = _ALPHA * wanted + (1 - _ALPHA) * (1 - wanted)
        focal = (alpha * surprise * (1 - right) ** _GAMMA).mean(dim=1)
        dice = 1 - (2 * (p * wanted).sum(dim=1) + 1) / (p.sum(dim=1) + wanted.sum(dim=1) + 1)
        return zeros.index_add(0, image, focal), zeros.index_add(0, image, dice)

    @torch.no_grad()
    def matching_costs(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_masks: Float[Tensor, "P B Q h w"],
        targets: PackedTargets,
    ) -> Float[Tensor, "P B Q T"]:
        """Compute the cost of giving each query to each object, with masks at the predictions' size."""
        P, B, Q, _ = pred_logits.shape
        size = pred_masks.shape[-2:]
        true = F.interpolate(targets.masks.float(), size=size, mode="nearest").flatten(2)[None].transpose(2, 3)
        x = pred_masks.flatten(3)
        p = x.sigmoid()
        focal_on = _ALPHA * (1 - p) ** _GAMMA * F.softplus(-x)
        focal_off = (1 - _ALPHA) * p**_GAMMA * F.softplus(x)
        focal = (focal_on @ true + focal_off @ (1 - true)) / x.shape[-1]
        dice = 1 - (2 * (p @ true) + 1) / (p.sum(dim=-1, keepdim=True) + true.sum(dim=2, keepdim=True) + 1)
        wanted = targets.labels[None, :, None].expand(P, B, Q, targets.labels.shape[1])
        classes = -pred_logits.softmax(dim=-1).gather(-1, wanted)
        return self.focal_weight * focal + self.class_weight * classes + self.dice_weight * dice
