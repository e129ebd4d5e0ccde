"""Panoptic quality once more, slowly and in plain words: expected value of tests, yardstick of speed.

Written from the published rules of the official evaluator (panopticapi): it walks over segments and pairs
with dictionaries, counts with ``numpy.unique`` and shares no code with ``ecocli``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pred:
    """A predicted segment."""

    id: int
    category_id: int


@dataclass(frozen=True)
class Truth:
    """A ground-truth segment."""

    id: int
    category_id: int
    is_crowd: bool
    area: int


@dataclass
class CategoryTally:
    """Running numbers of one category."""

    iou_sum: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0


def reference_counts(
    pred_map: np.ndarray,
    pred_segments: Sequence[Pred],
    true_map: np.ndarray,
    true_segments: Sequence[Truth],
    category_ids: Sequence[int],
) -> dict[int, CategoryTally]:
    """Return the tally of every category for one image."""
    tally = {category_id: CategoryTally() for category_id in category_ids}
    truth_by_id = {segment.id: segment for segment in true_segments}
    pred_by_id = {segment.id: segment for segment in pred_segments}

    area_of_pred = {}
    for pred_id, area in zip(*np.unique(pred_map, return_counts=True), strict=True):
        area_of_pred[int(pred_id)] = int(area)

    overlap_of = {}
    joint = true_map.astype(np.uint64) * 2**24 + pred_map.astype(np.uint64)
    for value, pixels in zip(*np.unique(joint, return_counts=True), strict=True):
        overlap_of[(int(value) // 2**24, int(value) % 2**24)] = int(pixels)

    matched_truth = set()
    matched_pred = set()
    for (true_id, pred_id), overlap in overlap_of.items():
        if true_id == 0 or pred_id == 0 or true_id not in truth_by_id:
            continue
        truth, pred = truth_by_id[true_id], pred_by_id[pred_id]
        if truth.is_crowd or truth.category_id != pred.category_id:
            continue
        pred_on_void = overlap_of.get((0, pred_id), 0)
        iou = overlap / (area_of_pred[pred_id] + truth.area - overlap - pred_on_void)
        if iou > 0.5:
            tally[truth.category_id].tp += 1
            tally[truth.category_id].iou_sum += iou
            matched_truth.add(true_id)
            matched_pred.add(pred_id)

    last_crowd = {}
    for truth in true_segments:
        if truth.is_crowd:
            last_crowd[truth.category_id] = truth.id
        elif truth.id not in matched_truth:
            tally[truth.category_id].fn += 1

    for pred in pred_segments:
        if pred.id in matched_pred:
            continue
        ignored = overlap_of.get((0, pred.id), 0)
        if pred.category_id in last_crowd:
            ignored += overlap_of.get((last_crowd[pred.category_id], pred.id), 0)
        if ignored / area_of_pred[pred.id] > 0.5:
            continue
        tally[pred.category_id].fp += 1
    return tally


def reference_average(tallies: Sequence[CategoryTally]) -> tuple[float, float, float] | None:
    """Return PQ, SQ, RQ averaged over the categories that occur, or None when none does."""
    pq = sq = rq = 0.0
    occurring = 0
    for tally in tallies:
        if tally.tp + tally.fp + tally.fn == 0:
            continue
        occurring += 1
        denominator = tally.tp + 0.5 * tally.fp + 0.5 * tally.fn
        pq += tally.iou_sum / denominator
        sq += tally.iou_sum / tally.tp if tally.tp != 0 else 0
        rq += tally.tp / denominator
    return (pq / occurring, sq / occurring, rq / occurring) if occurring else None


def random_scene(
    rng: np.random.Generator, height: int, width: int, num_segments: int, category_ids: Sequence[int]
) -> tuple[np.ndarray, list[Pred], np.ndarray, list[Truth]]:
    """Draw a ground truth of rectangles, and a prediction that is mostly a displaced copy of it."""
    true_map = np.zeros((height, width), np.int32)
    pred_map = np.zeros((height, width), np.int32)
    categories_of: dict[int, int] = {}
    for order in range(num_segments):
        true_id = int(rng.integers(1, 2**24))
        top, left = rng.integers(0, height), rng.integers(0, width)
        tall, wide = rng.integers(1, height // 2 + 2), rng.integers(1, width // 2 + 2)
        down, right = rng.integers(-2, 3, 2)
        categories_of[true_id] = int(rng.choice(category_ids))
        true_map[top : top + tall, left : left + wide] = true_id
        pred_top, pred_left = max(top + down, 0), max(left + right, 0)
        pred_map[pred_top : pred_top + tall, pred_left : pred_left + wide] = order + 1
    true_ids = sorted(set(categories_of) & set(np.unique(true_map).tolist()))
    truth = [Truth(i, categories_of[i], bool(rng.random() < 0.2), int((true_map == i).sum())) for i in true_ids]
    pred_categories = list(categories_of.values())
    pred = []
    for pred_id in np.unique(pred_map[pred_map > 0]).tolist():
        right_one = pred_categories[pred_id - 1] if pred_id <= len(pred_categories) else category_ids[0]
        pred.append(Pred(pred_id, right_one if rng.random() < 0.8 else int(rng.choice(category_ids))))
    rng.shuffle(truth)
    return pred_map, pred, true_map, truth
