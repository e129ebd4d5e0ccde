"""Mask AP by Cityscapes' rules.

Axes: D predictions and G true instances of one class in one image, T overlaps.
Source: the published evaluator (cityscapesScripts 2.3.0, ``evalInstanceLevelSemanticLabeling``, MIT), from whose rules
this is written anew; the tests hold both to the same values. The rules differ from COCO's:

- A true instance counts from 100 pixels on. Smaller ones and groups (crowds here) are no instances to be found.
- A prediction is right where its IoU with a true instance exceeds the overlap, strictly. Of several on one instance the
  one of highest confidence is right and the others are wrong; no prediction looks for its second-best instance.
- Any other prediction is wrong, unless more of it than the overlap lies on unlabelled pixels, groups and small
  instances (pixels of a small group count twice). A prediction that is like one of those is ignored by that alone.
- AP is the area under the straight lines between the points of precision and recall, from recall 0 at precision 1.
- The mean is over the classes with an instance to be found, and the ten overlaps.

One departure: where a class's only predictions are ignored ones the package fails; its AP is 0 here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from pycocotools import mask as coco_mask

from ecocli.metrics.instance import InstanceImage, Rle, ScoredInstance, TrueInstance
from ecocli.metrics.results import AveragePrecisions

# Made as the package makes them: its 0.6 is 0.6000000000000001, and an IoU of exactly 0.6 does not exceed it.
_OVERLAPS = np.arange(0.5, 1.0, 0.05)
_SMALLEST_PX = 100


@dataclass(eq=False)
class _Tally:
    """What a class gathers over the images."""

    right: list[list[float]] = field(default_factory=lambda: [[] for _ in _OVERLAPS])
    wrong: list[list[float]] = field(default_factory=lambda: [[] for _ in _OVERLAPS])
    instances: int = 0


def cityscapes_instance_quality(images: Sequence[InstanceImage]) -> AveragePrecisions:
    """Score a data set. AP and AP50 are measured, the other values are not among the rules and are None."""
    tallies: defaultdict[int, _Tally] = defaultdict(_Tally)
    for image in images:
        for class_index in {one.class_index for one in image.true} | {one.class_index for one in image.predicted}:
            _add(
                tallies[class_index],
                [one for one in image.true if one.class_index == class_index],
                [one for one in image.predicted if one.class_index == class_index],
                image.void,
            )
    precisions = [
        [
            _average_precision(right, wrong, tally.instances)
            for right, wrong in zip(tally.right, tally.wrong, strict=True)
        ]
        for _, tally in sorted(tallies.items())
        if tally.instances > 0
    ]
    if not precisions:
        return AveragePrecisions(None, None, None, None, None, None)
    by_class = np.array(precisions)
    return AveragePrecisions(float(by_class.mean()), float(by_class[:, 0].mean()), None, None, None, None)


def _add(tally: _Tally, true: Sequence[TrueInstance], predicted: Sequence[ScoredInstance], void: Rle | None) -> None:
    """Match the predictions of one class in one image."""
    areas = _areas(one.mask for one in true)
    groups = np.array([one.is_crowd for one in true], bool)
    small = areas < _SMALLEST_PX
    sought = np.flatnonzero(~groups & ~small)
    tally.instances += len(sought)
    predicted_areas = _areas(one.mask for one in predicted)
    predicted = [one for one, area in zip(predicted, predicted_areas, strict=True) if area > 0]
    if not predicted:
        return
    sizes = predicted_areas[predicted_areas > 0]
    scores = np.array([one.score for one in predicted])
    masks = [one.mask for one in predicted]
    common = _intersections(masks, sizes, [one.mask for one in true])
    iou = (common / (areas + sizes[:, None] - common))[:, sought]
    unlabelled = np.zeros(len(masks), np.int64) if void is None else _intersections(masks, sizes, [void])[:, 0]
    ignored = (unlabelled + common @ (groups.astype(np.int64) + small)) / sizes
    for index, overlap in enumerate(_OVERLAPS):
        hits = iou > overlap
        for on_instance in hits.T:
            on_it = np.sort(scores[on_instance])
            tally.right[index] += on_it[-1:].tolist()
            tally.wrong[index] += on_it[:-1].tolist()
        tally.wrong[index] += scores[~hits.any(axis=1) & (ignored <= overlap)].tolist()


def _average_precision(right: Sequence[float], wrong: Sequence[float], instances: int) -> float:
    """Give the area under precision and recall at every confidence that occurs."""
    thresholds = np.unique([*right, *wrong])
    found = len(right) - np.searchsorted(np.sort(right), thresholds)
    claimed = found + len(wrong) - np.searchsorted(np.sort(wrong), thresholds)
    precision = np.append(found / claimed, 1.0)
    recall = np.append(found / instances, 0.0)
    return float(((precision[:-1] + precision[1:]) / 2.0 * (recall[:-1] - recall[1:])).sum())


def _areas(masks: Iterable[Rle]) -> Int64[np.ndarray, " _m"]:
    return np.array([int(coco_mask.area(mask)) for mask in masks], np.int64)


def _intersections(
    predicted: Sequence[Rle], sizes: Int64[np.ndarray, " D"], true: Sequence[Rle]
) -> Int64[np.ndarray, "D G"]:
    """Count common pixels; pycocotools gives them as shares of the prediction, its IoU with a crowd."""
    if not true:
        return np.zeros((len(predicted), 0), np.int64)
    shares: Float64[np.ndarray, "D G"] = coco_mask.iou(list(predicted), list(true), [1] * len(true))
    common: Int64[np.ndarray, "D G"] = np.rint(shares * sizes[:, None]).astype(np.int64)
    return common
