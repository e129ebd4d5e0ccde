"""MaskFormer's loss of many predictions at once.

Axes: P predictions (exits x decoder layers), B images, Q queries, K classes, T objects of the fullest image, H W
pixels, h w pixels of a predicted mask.

Source: MaskFormer (arXiv 2107.06278), in transformers' ``MaskFormerLoss`` and ``MaskFormerHungarianMatcher``, weighted
over exits by ECO-M2F (arXiv 2404.15244, Eq. 3). Per prediction: class cross-entropy weighted by 0.1 for "no object",
and on all pixels of the matched masks focal loss and dice. The matching compares masks at the predictions' size, the
losses at the images'. The values are the original's; the differences are those of ``ecocli.losses.criterion``: packed
targets, and both normalisers are arguments. Nothing is drawn.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ecocli.losses.matched import WholeRegionCriterion
from ecocli.losses.targets import PackedTargets

_ALPHA, _GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class MaskCriterion(WholeRegionCriterion):
    """Hungarian-matched class, focal and dice losses."""

    terms: ClassVar[tuple[str, str, str]] = ("class", "focal", "dice")

    focal_weight: float = 20.0
    dice_weight: float = 1.0

    def region_sums(
        self, pred_regions: Float[Tensor, "P B Q h w"], targets: PackedTargets, queries: Int[Tensor, "P B T"]
    ) -> tuple[Float[Tensor, "P B"], Float[Tensor, "P B"]]:
        """Sum focal loss and dice, at the images' size."""
        sums = [self._mask_sums(masks, targets, its) for masks, its in zip(pred_regions, queries, strict=True)]
        return torch.stack([focal for focal, _ in sums]), torch.stack([dice for _, dice in sums])

    def _mask_sums(
        self, masks: Float[Tensor, "B Q h w"], targets: PackedTargets, queries: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
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
        pred_regions: Float[Tensor, "P B Q h w"],
        targets: PackedTargets,
    ) -> Float[Tensor, "P B Q T"]:
        """Compare masks at the predictions' size."""
        P, B, Q, _ = pred_logits.shape
        size = pred_regions.shape[-2:]
        true = F.interpolate(targets.masks.float(), size=size, mode="nearest").flatten(2)[None].transpose(2, 3)
        x = pred_regions.flatten(3)
        p = x.sigmoid()
        focal_on = _ALPHA * (1 - p) ** _GAMMA * F.softplus(-x)
        focal_off = (1 - _ALPHA) * p**_GAMMA * F.softplus(x)
        focal = (focal_on @ true + focal_off @ (1 - true)) / x.shape[-1]
        dice = 1 - (2 * (p @ true) + 1) / (p.sum(dim=-1, keepdim=True) + true.sum(dim=2, keepdim=True) + 1)
        wanted = targets.labels[None, :, None].expand(P, B, Q, targets.labels.shape[1])
        classes = -pred_logits.softmax(dim=-1).gather(-1, wanted)
        return self.focal_weight * focal + self.class_weight * classes + self.dice_weight * dice
