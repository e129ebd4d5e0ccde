"""Queries of one image to detections at its original size.

Axes: Q queries, K classes, D detections. Source: DETR (arXiv 2005.12872), PostProcess in models/detr.py (29901c5):
every query is a detection of its likeliest class, "no object" left out; no threshold and no suppression of neighbours.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ecocli.losses.boxes import to_corners


@dataclass(frozen=True, eq=False)
class Detections:
    """Scored boxes of one image, in the order of the queries.

    Attributes:
        boxes: Left, top, width, height, in pixels of the image at its original size.
    """

    class_index: Int64[np.ndarray, " D"]
    score: Float32[np.ndarray, " D"]
    boxes: Float32[np.ndarray, "D 4"]


def detect(
    pred_logits: Float[Tensor, "Q K1"], pred_boxes: Float[Tensor, "Q 4"], original_size: tuple[int, int]
) -> Detections:
    """Turn the queries of one image into detections.

    Args:
        pred_logits: Class logits, "no object" last.
        pred_boxes: Centre x, centre y, width, height, as ratios of the image.
        original_size: Height and width of the image, in pixels.
    """
    score, labels = pred_logits.float().softmax(dim=-1)[:, :-1].max(dim=-1)
    height, width = original_size
    corners = to_corners(pred_boxes.float()) * pred_boxes.new_tensor([width, height, width, height]).float()
    boxes = corners.clone()
    boxes[:, 2:] -= corners[:, :2]
    return Detections(labels.cpu().numpy(), score.cpu().numpy(), boxes.cpu().numpy())
