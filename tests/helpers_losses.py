"""Loss references for the tests: fixed points, and a plain loop over predictions, images and objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ecocli.losses.criterion import Criterion


@dataclass
class FixedPoints:
    """A point source that hands out given tensors, in order, and keeps what it gave."""

    matching: list[Tensor]
    objects: list[Tensor]
    counts_seen: list[tuple[int, ...]] = field(default_factory=list)

    def matching_points(self, num_predictions: int, num_points: int) -> Tensor:
        return self.matching.pop(0)

    def object_points(self, num_predictions: int, counts: Sequence[int], num_points: int) -> Tensor:
        self.counts_seen.append(tuple(counts))
        return self.objects.pop(0)


@dataclass
class GridPoints:
    """A point source without randomness: the same points every time, cut to the number asked for."""

    points: Tensor
    num_images: int

    def matching_points(self, num_predictions: int, num_points: int) -> Tensor:
        return self.points[:num_points].expand(1, self.num_images, -1, -1)

    def object_points(self, num_predictions: int, counts: Sequence[int], num_points: int) -> Tensor:
        return self.points[:num_points].expand(1, sum(counts), -1, -1)


def cell_centres(height: int, width: int) -> Tensor:
    """The centres of all cells of a mask, row by row, as (x, y) in [0, 1]."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)


def read_bilinear(mask: Tensor, points: Tensor) -> Tensor:
    """Read one mask at points from its four neighbours, written out; zero outside."""
    height, width = mask.shape
    x = points[:, 0] * width - 0.5
    y = points[:, 1] * height - 0.5
    total = torch.zeros(len(points))
    for row in (y.floor(), y.floor() + 1):
        for column in (x.floor(), x.floor() + 1):
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            value = mask[row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()]
            total = total + torch.where(inside, weight * value, torch.zeros(()))
    return total


def dice_of(p: Tensor, t: Tensor) -> Tensor:
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def plain_loss(
    criterion: Criterion,
    pred_logits: Tensor,
    pred_masks: Tensor,
    labels: list[Tensor],
    masks: list[Tensor],
    weights: Tensor,
    matching: Tensor,
    candidates: Tensor,
    uniform: Tensor,
    matched_by: Sequence[int] | None = None,
) -> Tensor:
    """Mask2Former's loss as its paper states it, one prediction, image and object after the other.

    Points are [P, B, M, 2] for the matching and [P, G, M, 2] for the objects. With ``matched_by`` a prediction takes
    over the matching of another one.
    """
    P, B, Q, K1 = pred_logits.shape
    class_weights = torch.ones(K1)
    class_weights[-1] = criterion.no_object_weight
    num_masks = max(1, sum(len(image_labels) for image_labels in labels))
    num_uncertain = int(criterion.num_points * criterion.importance_ratio)
    total = torch.zeros(())
    for p in range(P):
        owner = p if matched_by is None else matched_by[p]
        classes = torch.full((B, Q), K1 - 1)
        mask_sum = torch.zeros(())
        dice_sum = torch.zeros(())
        first_object = 0
        for b in range(B):
            T = len(labels[b])
            cost = torch.zeros(Q, T)
            for q in range(Q):
                for t in range(T):
                    x = read_bilinear(pred_masks[owner, b, q].detach(), matching[owner, b])
                    wanted = read_bilinear(masks[b][t].float(), matching[owner, b])
                    probability = pred_logits[owner, b, q].detach().softmax(0)[labels[b][t]]
                    cost[q, t] = (
                        -criterion.class_weight * probability
                        + criterion.mask_weight * F.binary_cross_entropy_with_logits(x, wanted)
                        + criterion.dice_weight * dice_of(x.sigmoid(), wanted)
                    )
            for q, t in zip(*linear_sum_assignment(cost.numpy()), strict=True):
                classes[b, q] = labels[b][t]
                mask = pred_masks[p, b, q]
                pool = candidates[p, first_object + t]
                nearest = read_bilinear(mask.detach(), pool).abs().argsort()[:num_uncertain]
                points = torch.cat([pool[nearest], uniform[p, first_object + t]])
                x = read_bilinear(mask, points)
                wanted = read_bilinear(masks[b][t].float(), points)
                mask_sum = mask_sum + F.binary_cross_entropy_with_logits(x, wanted)
                dice_sum = dice_sum + dice_of(x.sigmoid(), wanted)
            first_object += T
        class_loss = F.cross_entropy(pred_logits[p].transpose(1, 2), classes, class_weights)
        total = total + weights[p] * (
            criterion.class_weight * class_loss
            + (criterion.mask_weight * mask_sum + criterion.dice_weight * dice_sum) / num_masks
        )
    return total
