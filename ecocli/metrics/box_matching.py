"""Which detections of one image are right: matching to true boxes as COCO's evaluation does it, and per-image quality.

Axes: D detections, G true boxes, T = 10 IoU thresholds (0.50 to 0.95), A = 4 area ranges (all, small, medium, large).
Source: pycocotools' ``COCOeval.evaluateImg``, whose numbers these are. A detection takes the best free true box that it
overlaps enough, best scores first; crowds and boxes outside the area range are matched last, any number of times for
crowds, and such matches count for nothing. A match depends on nothing but its own image, so it is recorded once, and
the average precision of any choice of detections is arithmetic on the records (``ecocli.metrics.detection``).
Difference: all thresholds and area ranges of a detection are matched at once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt16
from pycocotools import mask as coco_mask

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREA_NAMES = ("all", "small", "medium", "large")
_AREA_LOW = np.array([0.0, 0.0, 32.0**2, 96.0**2])
_AREA_HIGH = np.array([1e10, 32.0**2, 96.0**2, 1e10])
MAX_DETECTIONS = 100
"""Detections of one class of one image that count, best scores first."""

_BITS = (1 << np.arange(len(IOU_THRESHOLDS))).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class TrueBoxes:
    """The true boxes of one image.

    Attributes:
        boxes: Left, top, width, height, in pixels.
        area: Its area in square pixels, as annotated: that of the object's mask where there is one.
        is_crowd: Whether it stands for a group of objects that are not told apart.
    """

    class_index: Int64[np.ndarray, " G"]
    boxes: Float64[np.ndarray, "G 4"]
    area: Float64[np.ndarray, " G"]
    is_crowd: Bool[np.ndarray, " G"]


@dataclass(frozen=True, eq=False)
class MatchedDetections:
    """The detections of one image at one exit, best first, and what became of them.

    Attributes:
        matched: Per area range one bit for each IoU threshold, the lowest bit for 0.50: whether it has a true box.
        ignored: The same: whether it counts for nothing.
    """

    class_index: Int64[np.ndarray, " D"]
    score: Float64[np.ndarray, " D"]
    matched: UInt16[np.ndarray, "D 4"]
    ignored: UInt16[np.ndarray, "D 4"]


def positives(truth: TrueBoxes, num_classes: int) -> Int64[np.ndarray, "K 4"]:
    """Count the true boxes that are to be found, per class and area range."""
    counts = np.zeros((num_classes, len(AREA_NAMES)), np.int64)
    np.add.at(counts, truth.class_index, ~_outside(truth))
    return counts


def match_detections(
    class_index: Int64[np.ndarray, " D"],
    score: Float32[np.ndarray, " D"],
    boxes: Float32[np.ndarray, "D 4"],
    truth: TrueBoxes,
) -> MatchedDetections:
    """Match the detections of one image.

    Args:
        boxes: Left, top, width, height, in pixels of the image at its original size.
    """
    order = np.argsort(-score, kind="stable")
    order = order[_within_limit(class_index[order])]
    class_index, scores, found = class_index[order], score[order].astype(np.float64), boxes[order].astype(np.float64)
    D = len(order)
    matched = np.zeros((D, len(AREA_NAMES)), np.uint16)
    area = found[:, 2] * found[:, 3]
    outside = (area[:, None] < _AREA_LOW) | (area[:, None] > _AREA_HIGH)
    ignored = np.where(outside, _BITS.sum(), 0).astype(np.uint16)
    for label in np.unique(truth.class_index):
        own, true = np.flatnonzero(class_index == label), np.flatnonzero(truth.class_index == label)
        if own.size:
            crowd = truth.is_crowd[true]
            ious = coco_mask.iou(found[own], truth.boxes[true], crowd.astype(np.uint8).tolist())
            to_ignore = _outside(truth)[true].T
            matched[own], by_match = _match_class(ious, crowd, to_ignore)
            # A match decides; without one the area of the detection does.
            ignored[own] = by_match | (ignored[own] & ~matched[own])
    return MatchedDetections(class_index, scores, matched, ignored)


def _outside(truth: TrueBoxes) -> Bool[np.ndarray, "G 4"]:
    """Whether a true box counts for nothing in an area range."""
    area = truth.area[:, None]
    outside: Bool[np.ndarray, "G 4"] = truth.is_crowd[:, None] | (area < _AREA_LOW) | (area > _AREA_HIGH)
    return outside


def _within_limit(classes: Int64[np.ndarray, " D"]) -> Bool[np.ndarray, " D"]:
    """Which detections, best first, are among the first hundred of their class."""
    kept = np.ones(len(classes), bool)
    if len(classes) > MAX_DETECTIONS:
        for label in np.unique(classes):
            kept[np.flatnonzero(classes == label)[MAX_DETECTIONS:]] = False
    return kept


def _match_class(
    ious: Float64[np.ndarray, "D G"], crowd: Bool[np.ndarray, " G"], to_ignore: Bool[np.ndarray, "A G"]
) -> tuple[UInt16[np.ndarray, "D A"], UInt16[np.ndarray, "D A"]]:
    """Match the detections of one class, best first; bits as in ``MatchedDetections``."""
    D, G = ious.shape
    A, T = len(to_ignore), len(IOU_THRESHOLDS)
    matched, ignored = np.zeros((D, A), np.uint16), np.zeros((D, A), np.uint16)
    free = np.ones((A, T, G), bool)
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    # True boxes that count go before those that do not; 2 is more than any IoU.
    rank = np.where(to_ignore, 0.0, 2.0)[:, None, :]
    areas, levels = np.ogrid[:A, :T]
    for detection in range(D):
        reached = ious[detection] >= thresholds
        if not reached.any():
            continue
        value = np.where(free & reached, ious[detection] + rank, -1.0)
        # Of equal overlaps the last one is taken.
        best = G - 1 - value[:, :, ::-1].argmax(axis=2)
        has = value[areas, levels, best] >= 0
        free[areas, levels, best] &= ~has | crowd[best]
        matched[detection] = (has * _BITS).sum(axis=1, dtype=np.uint16)
        ignored[detection] = ((has & to_ignore[areas, best]) * _BITS).sum(axis=1, dtype=np.uint16)
    return matched, ignored


def bits_at(bits: UInt16[np.ndarray, "*bits"], threshold: int) -> Bool[np.ndarray, "*bits"]:
    """Read one threshold's bit."""
    set_: Bool[np.ndarray, "*bits"] = (bits >> np.uint16(threshold)) & np.uint16(1) != 0
    return set_


def recall_curve(
    true_positives: Float64[np.ndarray, "T D"],
    false_positives: Float64[np.ndarray, "T D"],
    positives: float,
    tolerance: float = 0.0,
) -> Float64[np.ndarray, " T"]:
    """Average precision of one class at each threshold, from running totals over detections, best first.

    Args:
        true_positives: Running total of right detections.
        false_positives: Running total of wrong ones.
        positives: True boxes to be found, more than zero.
        tolerance: How far a recall may miss a level; more than zero where the totals are sums of fractions, whose
            rounding would decide otherwise.
    """
    precision = true_positives / (false_positives + true_positives + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true_positives / positives
    averages = np.zeros(len(precision))
    for level in range(len(precision)):
        places = np.searchsorted(recall[level], RECALLS - tolerance, side="left")
        reached = places[places < precision.shape[1]]
        averages[level] = precision[level, reached].sum() / len(RECALLS)
    return averages


def image_ap(detections: MatchedDetections, positives: Int64[np.ndarray, "K 4"]) -> float:
    """Give COCO's AP of one image alone: the mean over the classes that it holds; NaN where it holds none.

    Wrong detections of classes that the image does not hold cost nothing, as in the evaluation of a data set of this
    one image.
    """
    values = []
    for label in np.flatnonzero(positives[:, 0]):
        own = detections.class_index == label
        matched, ignored = detections.matched[own, 0], detections.ignored[own, 0]
        right = np.stack([bits_at(matched & ~ignored, t) for t in range(len(IOU_THRESHOLDS))])
        wrong = np.stack([~bits_at(matched | ignored, t) for t in range(len(IOU_THRESHOLDS))])
        totals = [side.cumsum(axis=1).astype(np.float64) for side in (right, wrong)]
        values.append(recall_curve(totals[0], totals[1], float(positives[label, 0])).mean())
    return float(np.mean(values)) if values else float("nan")


def image_box_pq(
    class_index: Int64[np.ndarray, " D"],
    score: Float32[np.ndarray, " D"],
    boxes: Float32[np.ndarray, "D 4"],
    truth: TrueBoxes,
    min_score: float = 0.5,
) -> float:
    """Give the panoptic quality of boxes in one image, NaN where it neither holds nor gets any.

    Per class the sum of the IoU of matches over TP + FP / 2 + FN / 2, then the mean over the classes that the image
    holds or gets. Only detections of more than ``min_score`` count; one to one, best scores first, at IoU above 0.5.
    Detections that lie mostly in a crowd of their class count for nothing.
    """
    order = np.argsort(-score, kind="stable")
    order = order[score[order] > min_score]
    found = boxes[order].astype(np.float64)
    labels = class_index[order]
    values = []
    for label in np.union1d(labels, truth.class_index[~truth.is_crowd]):
        own = found[labels == label]
        true = truth.class_index == label
        real, crowds = truth.boxes[true & ~truth.is_crowd], truth.boxes[true & truth.is_crowd]
        in_crowd = np.zeros(len(own), bool)
        if len(own) and len(crowds):
            in_crowd = coco_mask.iou(own, crowds, [1] * len(crowds)).max(axis=1) > 0.5
        ious = coco_mask.iou(own, real, [0] * len(real)) if len(own) and len(real) else np.zeros((len(own), len(real)))
        iou_sum, right, wrong = 0.0, 0, 0
        for row, crowded in zip(ious, in_crowd, strict=True):
            best = int(row.argmax()) if row.size else -1
            if best >= 0 and row[best] > 0.5:
                iou_sum, right = iou_sum + row[best], right + 1
                ious[:, best] = 0.0
            elif not crowded:
                wrong += 1
        halves = right + wrong / 2 + (len(real) - right) / 2
        if halves:
            values.append(iou_sum / halves)
    return float(np.mean(values)) if values else float("nan")
