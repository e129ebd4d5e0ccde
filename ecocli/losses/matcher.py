"""Hungarian matching of queries to objects, for all predictions at once.

Axes: P predictions (exits x decoder layers), B images, Q queries, K classes, T objects of the fullest
image, M points, H W pixels, S draws (P or 1).

Source: Mask2Former (arXiv 2112.01527). Cost = class weight x (-probability of the object's class) + mask
weight x binary cross-entropy + dice weight x dice loss, the latter two on random points. Unlike the
original, which loops over predictions and images, the costs of all are two batched matrix products; only
the assignment itself runs per pair. The cross-entropy of logit x and target t is softplus(x) - x t, so
the original's two products become one.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ecocli.losses.points import sample_points


@torch.no_grad()
def matching_costs(
    pred_logits: Float[Tensor, "P B Q K_plus_1"],
    pred_masks: Float[Tensor, "P B Q h w"],
    labels: Int[Tensor, "B T"],
    masks: Float[Tensor, "B T H W"],
    points: Float[Tensor, "S B M 2"],
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
) -> Float[Tensor, "P B Q T"]:
    """Compute the cost of giving each query to each object.

    Args:
        pred_logits: Unnormalised class scores, "no object" last, float32.
        pred_masks: Mask logits, float32.
        labels: Class index of each object.
        masks: Object masks as 0 and 1.
        points: Where the masks are compared; S is P, or 1 if all predictions share them.
    """
    P, B, Q, _ = pred_logits.shape
    S, _, M, _ = points.shape
    T = labels.shape[1]
    wanted = labels[None, :, None].expand(P, B, Q, T)
    class_cost = -pred_logits.softmax(dim=-1).gather(-1, wanted)

    every_point = points.expand(P, B, M, 2).flatten(0, 1)
    x = sample_points(pred_masks.flatten(0, 1), every_point).view(P, B, Q, M)
    t = sample_points(masks, points.transpose(0, 1).reshape(B, S * M, 2))
    t = t.view(B, T, S, M).permute(2, 0, 3, 1)
    mask_cost = (F.softplus(x).sum(dim=-1, keepdim=True) - x @ t) / M
    p = x.sigmoid()
    areas = p.sum(dim=-1)[..., None] + t.sum(dim=-2)[:, :, None]
    dice_cost = 1.0 - (2.0 * (p @ t) + 1.0) / (areas + 1.0)
    return mask_weight * mask_cost + class_weight * class_cost + dice_weight * dice_cost


def assign_queries(costs: Float[Tensor, "P B Q T"], counts: Sequence[int]) -> Int[Tensor, "P B T"]:
    """Give each object the query of the cheapest one-to-one assignment.

    Args:
        costs: Cost of each query for each object. Values that are not finite count as very large, so that a
            diverged prediction is reported by its loss instead of failing here.
        counts: Number of real objects of each image.

    Returns:
        The query of each object on the costs' device; -1 where the object is padding, or where there are
        more objects than queries and it was left over.
    """
    P, B, _, T = costs.shape
    found: NDArray[np.int64] = np.full((P, B, T), -1, dtype=np.int64)
    matrix = costs.cpu().numpy()
    if not np.isfinite(matrix).all():
        matrix = np.nan_to_num(matrix, nan=1e6, posinf=1e6, neginf=-1e6)
    for image, count in enumerate(counts):
        if count == 0:
            continue
        for prediction in range(P):
            queries, objects = linear_sum_assignment(matrix[prediction, image, :, :count])
            found[prediction, image, objects] = queries
    return torch.from_numpy(found).to(costs.device)
