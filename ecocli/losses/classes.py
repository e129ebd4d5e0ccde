"""The class term that Mask2Former's and DETR's losses share.

Axes: P predictions, B images, Q queries, K classes, T objects of the fullest image.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
