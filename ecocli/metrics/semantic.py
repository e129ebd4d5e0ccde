"""Mean intersection over union of semantic maps, with the truth taken from panoptic annotations.

Axes: K classes (rank of the category), H W pixels. Source: the definition that Mask2Former's published numbers use
(detectron2's semantic evaluator): all classes of the panoptic data, things merged, crowds included, void pixels left
out on both sides; the mean is over classes that occur in the truth. cityscapesScripts differs in one thing: there a
class that is predicted and does not occur in the truth counts as 0. No ``panoptic_semseg`` folder is needed, the truth
comes from the panoptic maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64, Integer

from ecocli.metrics.panoptic_quality import PredictedLike

IGNORED = -1


@dataclass(frozen=True)
class SemanticQuality:
    """Fractions; None where the truth has no pixel to score.

    Attributes:
        miou: Mean IoU over the classes that are scored.
        per_class: IoU of each class, None for one that is not scored.
    """

    miou: float | None
    pixel_accuracy: float | None
    per_class: tuple[float | None, ...]


def semantic_truth(
    true_map: Int32[np.ndarray, "H W"], true_segments: Sequence[PredictedLike], category_ids: Sequence[int]
) -> Int64[np.ndarray, "H W"]:
    """Turn a panoptic annotation into class indices, ``IGNORED`` where nothing is labelled."""
    class_of = {category_id: index for index, category_id in enumerate(category_ids)}
    ordered = sorted(true_segments, key=lambda segment: segment.id)
    ids = np.array([0, *(segment.id for segment in ordered)], np.int32)
    classes = np.array([IGNORED, *(class_of[segment.category_id] for segment in ordered), IGNORED], np.int64)
    slot = np.searchsorted(ids, true_map)
    slot[np.append(ids, -1)[slot] != true_map] = len(ids)
    truth: Int64[np.ndarray, "H W"] = classes[slot]
    return truth


def count_confusion(
    pred_classes: Integer[np.ndarray, "H W"], true_classes: Integer[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "K K"]:
    """Count the labelled pixels of one image by true class (row) and predicted class (column)."""
    labelled = true_classes != IGNORED
    pairs = true_classes[labelled].astype(np.int64) * num_classes + pred_classes[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def semantic_quality(
    confusion: Int64[np.ndarray, "K K"] | Float64[np.ndarray, "K K"], *, absent: bool = False
) -> SemanticQuality:
    """Score the summed (or, for a random mixture, expected) confusion matrix of a data set.

    Args:
        confusion: Pixels by true and predicted class.
        absent: Score classes that are predicted and do not occur in the truth, as 0; else they are left out.
    """
    right = confusion.diagonal()
    true_pixels = confusion.sum(axis=1)
    union = true_pixels + confusion.sum(axis=0) - right
    counted = union if absent else true_pixels
    per_class = tuple(
        hit / whole if occurs else None
        for hit, whole, occurs in zip(right.tolist(), union.tolist(), counted.tolist(), strict=True)
    )
    scored = [iou for iou in per_class if iou is not None]
    if not scored:
        return SemanticQuality(None, None, per_class)
    return SemanticQuality(sum(scored) / len(scored), float(right.sum()) / float(true_pixels.sum()), per_class)
