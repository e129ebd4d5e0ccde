"""The Mask2Former loss of many predictions at once.

Axes: P predictions (exits x decoder layers), B images, Q queries, K classes, T objects of the fullest
image, G objects of the batch, M points, H W pixels, h w pixels of a predicted mask.

Source: Mask2Former (arXiv 2112.01527), weighted over exits by ECO-M2F (arXiv 2404.15244, Eq. 3). Per
prediction: class cross-entropy weighted by 0.1 for "no object", and on the points where the mask is
least certain, binary cross-entropy and dice. The values are the original's; the differences:

- All predictions are one tensor and share the packed targets and the random draws (see ``points``).
- Both normalisers are arguments (see ``matched``).
- A batch without objects has a mask loss of zero that still reaches ``pred_masks``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ecocli.losses.matched import CriterionOutput, MatchedCriterion, class_loss_sums, match_owners
from ecocli.losses.matcher import assign_queries, matching_costs
from ecocli.losses.points import PointSource, choose_uncertain_points, sample_points
from ecocli.losses.targets import PackedTargets

# Predictions are worked through in portions so that one query-by-point tensor of an image stays below
# this many elements: 13 of the published models' predictions, all of a small model's.
_PORTION_ELEMENTS = 2**24


@dataclass(frozen=True)
class Criterion(MatchedCriterion):
    """Hungarian-matched class, mask and dice losses.

    Attributes:
        oversample_ratio: Candidates drawn per point.
        importance_ratio: Fraction of the points chosen by uncertainty, the rest is uniform.
    """

    terms: ClassVar[tuple[str, str, str]] = ("class", "mask", "dice")

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75

    def _losses(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_regions: Float[Tensor, "P B Q h w"],
        targets: PackedTargets,
        prediction_weights: Float[Tensor, " P"],
        point_source: PointSource | None,
        norms: tuple[float, float],
        taken: Sequence[int],
    ) -> CriterionOutput:
        assert point_source is not None  # it has the points to draw
        portion = max(1, _PORTION_ELEMENTS // (pred_logits.shape[2] * self.num_points))
        float_masks = targets.masks.float()
        queries = match_owners(
            taken,
            lambda some: self._match(pred_logits, pred_regions, targets, float_masks, point_source, some, portion),
        )
        parts = [
            self._portion_losses(
                pred_logits[start : start + portion].float(),
                pred_regions[start : start + portion].float(),
                targets,
                float_masks,
                queries[start : start + portion],
                point_source,
            )
            for start in range(0, len(pred_logits), portion)
        ]
        per_class, per_mask, per_dice = (torch.cat([part[i] for part in parts]) for i in range(3))
        class_norm, mask_norm = norms
        per_image = (
            self.class_weight * per_class / class_norm
            + (self.mask_weight * per_mask + self.dice_weight * per_dice) / mask_norm
        )
        terms = [
            sums.detach().sum(dim=1) / norm
            for sums, norm in ((per_class, class_norm), (per_mask, mask_norm), (per_dice, mask_norm))
        ]
        return self.output(terms, per_image, prediction_weights, queries)

    def _match(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_masks: Float[Tensor, "P B Q h w"],
        targets: PackedTargets,
        float_masks: Float[Tensor, "B T H W"],
        point_source: PointSource,
        owners: Sequence[int],
        portion: int,
    ) -> Int[Tensor, "p B T"]:
        """Match some predictions."""
        found = []
        for start in range(0, len(owners), portion):
            some = owners[start : start + portion]
            costs = matching_costs(
                pred_logits[some].float(),
                pred_masks[some].float(),
                targets.labels,
                float_masks,
                point_source.matching_points(len(some), self.num_points),
                self.class_weight,
                self.mask_weight,
                self.dice_weight,
            )
            found.append(assign_queries(costs, targets.counts))
        return torch.cat(found)

    def _portion_losses(
        self,
        pred_logits: Float[Tensor, "P B Q K_plus_1"],
        pred_masks: Float[Tensor, "P B Q h w"],
        targets: PackedTargets,
        float_masks: Float[Tensor, "B T H W"],
        queries: Int[Tensor, "P B T"],
        point_source: PointSource,
    ) -> tuple[Float[Tensor, "P B"], Float[Tensor, "P B"], Float[Tensor, "P B"]]:
        """Sum each term over the queries or objects of each image; not yet normalised."""
        P, B, Q, _ = pred_logits.shape
        class_sums = class_loss_sums(pred_logits, targets.labels, queries, self.no_object_weight)

        # Flat lists of objects: which image and place each has, and its query in every prediction.
        device = pred_logits.device
        image_of = torch.repeat_interleave(torch.arange(B, device=device), torch.tensor(targets.counts, device=device))
        place_of = torch.tensor([t for count in targets.counts for t in range(count)], device=device).long()
        query_of = queries[:, image_of, place_of]
        rows = (torch.arange(P, device=device)[:, None] * B + image_of) * Q + query_of.clamp(min=0)
        matched_masks = pred_masks.flatten(0, 2).index_select(0, rows.flatten())
        mask_terms, dice_terms = self._mask_terms(
            matched_masks.view(*rows.shape, *pred_masks.shape[-2:]),
            float_masks[image_of, place_of],
            targets.counts,
            point_source,
        )
        # An object without a query (more objects than queries) has no mask loss.
        is_matched = (query_of >= 0).float()
        zeros = pred_masks.new_zeros(P, B)
        mask_sums = zeros.index_add(1, image_of, mask_terms * is_matched)
        dice_sums = zeros.index_add(1, image_of, dice_terms * is_matched)
        return class_sums, mask_sums, dice_sums

    def _mask_terms(
        self,
        matched_masks: Float[Tensor, "P G h w"],
        object_masks: Float[Tensor, "G H W"],
        counts: Sequence[int],
        point_source: PointSource,
    ) -> tuple[Float[Tensor, "P G"], Float[Tensor, "P G"]]:
        """Compute cross-entropy and dice of each prediction's mask for each object, on sampled points."""
        P, G = matched_masks.shape[:2]
        num_candidates = int(self.num_points * self.oversample_ratio)
        num_uncertain = int(self.num_points * self.importance_ratio)
        flat_masks = matched_masks.flatten(0, 1)
        with torch.no_grad():
            candidates = point_source.object_points(P, counts, num_candidates)
            uncertain = choose_uncertain_points(
                flat_masks, candidates.expand(P, -1, -1, -1).reshape(P * G, num_candidates, 2), num_uncertain
            ).view(P, G, num_uncertain, 2)
            uniform = point_source.object_points(P, counts, self.num_points - num_uncertain)
            points = torch.cat([uncertain, uniform.expand(P, -1, -1, -1)], dim=2)
            # All predictions' points of one object are read from its mask in one go.
            per_object = points.transpose(0, 1).reshape(G, P * self.num_points, 2)
            t = sample_points(object_masks[:, None], per_object).view(G, P, self.num_points).transpose(0, 1)
        x = sample_points(flat_masks[:, None], points.flatten(0, 1)).view(P, G, self.num_points)
        mask_terms = F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(dim=-1)
        p = x.sigmoid()
        dice_terms = 1.0 - (2.0 * (p * t).sum(dim=-1) + 1.0) / (p.sum(dim=-1) + t.sum(dim=-1) + 1.0)
        return mask_terms, dice_terms
