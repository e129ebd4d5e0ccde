"""Boxes as losses and matching see them, and the ground truth of a detection batch.

Axes: B images, T objects of the fullest image (padding included), Q queries. Boxes are centre x, centre y, width,
height as ratios of the image, or corners x0, y0, x1, y1 where a name says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class PackedBoxes:
    """The objects of every image of a batch.

    Attributes:
        labels: Class index of each object; 0 where padded.
        boxes: Box of each object; a box of the whole image where padded.
        counts: Number of real objects of each image; they come first along axis T.
    """

    labels: Int[Tensor, "B T"]
    boxes: Float[Tensor, "B T 4"]
    counts: tuple[int, ...]

    def to(self, device: torch.device | str) -> "PackedBoxes":
        """Return the same targets on a device."""
        return PackedBoxes(
            self.labels.to(device, non_blocking=True), self.boxes.to(device, non_blocking=True), self.counts
        )


def pack_boxes(labels: Sequence[Int[Tensor, " _"]], boxes: Sequence[Float[Tensor, "_ 4"]]) -> PackedBoxes:
    """Pad the objects of each image to one tensor.

    Args:
        labels: Per image, the class index of each object; may be empty.
        boxes: Per image, the box of each object.

    Raises:
        ValueError: Labels and boxes disagree.
    """
    counts = tuple(len(image_labels) for image_labels in labels)
    if counts != tuple(len(image_boxes) for image_boxes in boxes) or not counts:
        raise ValueError(f"found labels of {list(counts)} objects and boxes of {[len(b) for b in boxes]}")
    depth = max(1, *counts)
    packed_labels = torch.zeros(len(counts), depth, dtype=torch.int64)
    packed_boxes = torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(len(counts), depth, 1)
    for image, count in enumerate(counts):
        packed_labels[image, :count] = labels[image]
        packed_boxes[image, :count] = boxes[image]
    return PackedBoxes(packed_labels, packed_boxes, counts)


def to_corners(boxes: Float[Tensor, "*lead 4"]) -> Float[Tensor, "*lead 4"]:
    """Centre and size to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def generalised_iou(a: Float[Tensor, "*#lead 4"], b: Float[Tensor, "*#lead 4"]) -> Float[Tensor, "*lead"]:
    """GIoU (arXiv 1902.09630) of boxes given by corners, pair by pair; leading axes broadcast.

    Two boxes of no area at one place have no IoU: their value is not a number, and the loss reports it.
    """
    top_left, bottom_right = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    union = _area(a) + _area(b) - intersection
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull_area = hull.clamp(min=0).prod(dim=-1)
    return intersection / union - (hull_area - union) / hull_area


def _area(corners: Float[Tensor, "*lead 4"]) -> Float[Tensor, "*lead"]:
    return (corners[..., 2:] - corners[..., :2]).prod(dim=-1)
