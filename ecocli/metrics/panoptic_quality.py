"""Panoptic quality: counts of one image, and the scores of any sum of counts.

Axes: K classes (rank of the category), H W pixels, T true and P predicted segments, N overlapping pairs.
Source of the rules: cocodataset/panopticapi; counts of an image and scores of counts equal its values bit
for bit. Unlike it, everything works on arrays (no PNG is read), an average over no class is None instead of
a zero division, and a dataset's sum adds image by image in the given order, where panopticapi's order
depends on how many processes it starts.

Speed: segments are coherent regions, so both maps are cut into runs of equal (true id, predicted id) in one
pass, and only the runs - thousands, not hundreds of thousands - are looked up and summed. Maps of pure noise
give the same numbers, slower.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int32, Int64

from ecocli.errors import DataError

VOID_ID = 0
_MAX_ID = (1 << 24) - 1  # segment ids are three bytes of a PNG
_MATCH_IOU = 0.5


@runtime_checkable
class PredictedLike(Protocol):
    """A predicted segment; its area is counted from the map."""

    @property
    def id(self) -> int:
        """Value of the segment's pixels in the map, from 1."""

    @property
    def category_id(self) -> int:
        """The data set's category id, not a class index."""


@runtime_checkable
class TrueLike(PredictedLike, Protocol):
    """A ground-truth segment; its area is the annotation's, as panopticapi has it."""

    @property
    def is_crowd(self) -> bool:
        """Whether the region is a group that no prediction can match."""

    @property
    def area(self) -> int:
        """Pixels, as the annotation states."""


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """What one image, or a sum of images, adds to the panoptic quality of each class.

    TP, FP and FN are whole numbers; only the expected counts of a random mixture have fractions.
    """

    iou_sum: Float64[np.ndarray, " K"]
    tp: Int64[np.ndarray, " K"] | Float64[np.ndarray, " K"]
    fp: Int64[np.ndarray, " K"] | Float64[np.ndarray, " K"]
    fn: Int64[np.ndarray, " K"] | Float64[np.ndarray, " K"]

    @classmethod
    def zeros(cls, num_classes: int) -> "ImageCounts":
        """Return the counts of no image at all."""
        none = np.zeros(num_classes, np.int64)
        return cls(np.zeros(num_classes), none, none.copy(), none.copy())

    def __add__(self, other: "ImageCounts") -> "ImageCounts":
        return ImageCounts(self.iou_sum + other.iou_sum, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


@dataclass(frozen=True)
class Quality:
    """PQ, SQ and RQ as fractions, None where no class has anything to score."""

    pq: float | None
    sq: float | None
    rq: float | None
    num_classes: int
    """Classes averaged: those with at least one TP, FP or FN."""


@dataclass(frozen=True)
class PanopticQuality:
    """The scores of one set of counts: over all classes, things, stuff, and of each class."""

    overall: Quality
    things: Quality
    stuff: Quality
    per_class: tuple[Quality, ...]

    @property
    def pq(self) -> float | None:
        """PQ over all classes, a fraction."""
        return self.overall.pq

    @property
    def sq(self) -> float | None:
        """Segmentation quality over all classes, a fraction."""
        return self.overall.sq

    @property
    def rq(self) -> float | None:
        """Recognition quality over all classes, a fraction."""
        return self.overall.rq


def count_panoptic_image(
    pred_map: Int32[np.ndarray, "H W"],
    pred_segments: Sequence[PredictedLike],
    true_map: Int32[np.ndarray, "H W"],
    true_segments: Sequence[TrueLike],
    category_ids: Sequence[int],
) -> ImageCounts:
    """Match the segments of one image and count, per class, what panoptic quality is made of.

    Args:
        pred_map: Predicted segment id of each pixel, 0 where nothing is predicted.
        true_map: Ground-truth segment id of each pixel, 0 where unlabelled.
        true_segments: The ground truth's segments in the annotation's order (with several crowds of one
            category the last one counts).
        category_ids: The data set's category ids; the class index is the position.

    Returns:
        The counts, with class k standing for ``category_ids[k]``.

    Raises:
        DataError: An id of the predicted map is not listed or the other way round, an id occurs twice or is
            the void id, a category is unknown, or an annotated area leaves a union of zero pixels.
    """
    K = len(category_ids)
    class_of = {category_id: index for index, category_id in enumerate(category_ids)}
    true_ids, true_class = _ids_and_classes(true_segments, class_of, "ground-truth")
    pred_ids, pred_class = _ids_and_classes(pred_segments, class_of, "predicted")
    table = _contingency(true_map, true_ids, pred_map, pred_ids)
    overlap, void_area, pred_area = table[1:-1, 1:-1], table[0, 1:-1], table[:, 1:-1].sum(axis=0)
    _check_listed(pred_map, pred_ids, pred_area, unlisted_pixels=int(table[:, -1].sum()))

    by_id = sorted(true_segments, key=lambda segment: segment.id)
    true_area = np.array([segment.area for segment in by_id], np.int64)
    is_crowd = np.array([segment.is_crowd for segment in by_id], bool)
    # A later crowd of the same category takes the place of an earlier one.
    crowd_id_of = {s.category_id: s.id for s in true_segments if s.is_crowd}
    excused = void_area.copy()
    for category_id, crowd_id in crowd_id_of.items():
        on_crowd = overlap[np.searchsorted(true_ids, crowd_id)]
        excused += np.where(pred_class == class_of[category_id], on_crowd, 0)

    rows, columns = np.nonzero((true_class[:, None] == pred_class) & ~is_crowd[:, None] & (overlap > 0))
    shared = overlap[rows, columns]
    union = pred_area[columns] + true_area[rows] - shared - void_area[columns]
    if not union.all():
        row = int(rows[union == 0][0])
        raise DataError(
            f"ground-truth segment {true_ids[row]} states an area of {true_area[row]} pixels, which leaves a "
            "union of 0 pixels with a prediction that overlaps it; correct the annotation's area"
        )
    iou = shared / union
    matched = iou > _MATCH_IOU
    rows, columns = rows[matched], columns[matched]
    missed = ~is_crowd
    missed[rows] = False
    wrong = ~(excused / pred_area > _MATCH_IOU)
    wrong[columns] = False
    return ImageCounts(
        # bincount adds pair by pair in order of true id, then predicted id: the order panopticapi adds in. Of no pair
        # at all it makes integers.
        iou_sum=np.bincount(true_class[rows], weights=iou[matched], minlength=K).astype(np.float64),
        tp=np.bincount(true_class[rows], minlength=K),
        fp=np.bincount(pred_class[wrong], minlength=K),
        fn=np.bincount(true_class[missed], minlength=K),
    )


def sum_counts(counts: Iterable[ImageCounts], num_classes: int) -> ImageCounts:
    """Add the counts of images, one after the other in the given order."""
    total = ImageCounts.zeros(num_classes)
    for image_counts in counts:
        total = total + image_counts
    return total


def panoptic_quality(counts: ImageCounts, is_thing: Sequence[bool] | None = None) -> PanopticQuality:
    """Score a set of counts.

    Args:
        counts: Of one image, or summed over a data set.
        is_thing: For each class whether it is a thing; without it things and stuff stay undefined.

    Returns:
        Fractions; a class with neither TP nor FP nor FN is None and left out of the averages.
    """
    per_class = tuple(
        _class_quality(iou_sum, tp, fp, fn)
        for iou_sum, tp, fp, fn in zip(
            counts.iou_sum.tolist(), counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist(), strict=True
        )
    )
    kinds: Sequence[bool | None] = [None] * len(per_class) if is_thing is None else is_thing
    if len(kinds) != len(per_class):
        raise ValueError(f"is_thing has {len(kinds)} entries, the counts have {len(per_class)} classes")
    pairs = list(zip(per_class, kinds, strict=True))
    return PanopticQuality(
        overall=_average(per_class),
        things=_average(quality for quality, thing in pairs if thing is True),
        stuff=_average(quality for quality, thing in pairs if thing is False),
        per_class=per_class,
    )


def image_pq(counts: ImageCounts) -> float | None:
    """Return the mean PQ over the classes present in one image's truth or prediction, None without any."""
    present = np.flatnonzero(counts.tp + counts.fp + counts.fn)
    if present.size == 0:
        return None
    total = 0.0
    for index in present.tolist():
        total += float(counts.iou_sum[index]) / (
            int(counts.tp[index]) + 0.5 * int(counts.fp[index]) + 0.5 * int(counts.fn[index])
        )
    return total / present.size


def _ids_and_classes(
    segments: Sequence[PredictedLike], class_of: dict[int, int], side: str
) -> tuple[Int64[np.ndarray, " S"], Int64[np.ndarray, " S"]]:
    """Return the segments' ids in ascending order, and the class of each."""
    category_of = {segment.id: segment.category_id for segment in segments}
    if len(category_of) != len(segments):
        raise DataError(f"a {side} segment id is listed twice among {sorted(s.id for s in segments)}")
    ids = sorted(category_of)
    if ids and not VOID_ID < ids[0] <= ids[-1] <= _MAX_ID:
        raise DataError(f"a {side} segment id lies outside 1..{_MAX_ID}: {ids}")
    for segment_id in ids:
        if category_of[segment_id] not in class_of:
            raise DataError(
                f"{side} segment {segment_id} has the unknown category {category_of[segment_id]}; known are "
                f"{sorted(class_of)}"
            )
    return np.array(ids, np.int64), np.array([class_of[category_of[i]] for i in ids], np.int64)


def _contingency(
    true_map: Int32[np.ndarray, "H W"],
    true_ids: Int64[np.ndarray, " T"],
    pred_map: Int32[np.ndarray, "H W"],
    pred_ids: Int64[np.ndarray, " P"],
) -> Int64[np.ndarray, "T_and_2 P_and_2"]:
    """Count the pixels of each pair: void first, then the ids in order, what is not listed last."""
    true_flat, pred_flat = true_map.ravel(), pred_map.ravel()
    begins = np.ones(true_flat.size, bool)
    np.not_equal(true_flat[1:], true_flat[:-1], out=begins[1:])
    begins[1:] |= pred_flat[1:] != pred_flat[:-1]
    start = np.flatnonzero(begins)
    length = np.empty(start.size)
    length[:-1] = start[1:] - start[:-1]
    length[-1:] = true_flat.size - start[-1:]
    columns = pred_ids.size + 2
    pair = _slots(true_flat[start], true_ids) * columns + _slots(pred_flat[start], pred_ids)
    cells = (true_ids.size + 2) * columns
    # Float weights are exact here: pixel counts stay far below 2 ** 53.
    pixels = np.bincount(pair, weights=length, minlength=cells).astype(np.int64)
    return pixels.reshape(-1, columns)


def _slots(run_ids: Int32[np.ndarray, " R"], ids: Int64[np.ndarray, " S"]) -> Int64[np.ndarray, " R"]:
    """Return 0 for void, 1 + position for a listed id, and S + 1 for any other."""
    known = np.concatenate([[VOID_ID], ids]).astype(np.int32)
    slot = np.searchsorted(known, run_ids)
    slot[np.append(known, -1)[slot] != run_ids] = known.size
    return slot


def _check_listed(
    pred_map: Int32[np.ndarray, "H W"],
    pred_ids: Int64[np.ndarray, " P"],
    pred_area: Int64[np.ndarray, " P"],
    *,
    unlisted_pixels: int,
) -> None:
    if unlisted_pixels:
        unknown = sorted(set(np.unique(pred_map).tolist()) - set(pred_ids.tolist()) - {VOID_ID})
        raise DataError(f"the predicted map holds segment ids that its list does not: {unknown}")
    if not pred_area.all():
        absent = pred_ids[pred_area == 0].tolist()
        raise DataError(f"the list of predicted segments holds ids that its map does not: {absent}")


def _class_quality(iou_sum: float, tp: float, fp: float, fn: float) -> Quality:
    if tp + fp + fn == 0:
        return Quality(None, None, None, 0)
    halves = tp + 0.5 * fp + 0.5 * fn
    return Quality(iou_sum / halves, iou_sum / tp if tp else 0.0, tp / halves, 1)


def _average(qualities: Iterable[Quality]) -> Quality:
    """Average plainly from left to right, as panopticapi does: numpy's sums would round differently."""
    pq = sq = rq = 0.0
    scored = 0
    for quality in qualities:
        if quality.pq is None or quality.sq is None or quality.rq is None:
            continue
        pq, sq, rq, scored = pq + quality.pq, sq + quality.sq, rq + quality.rq, scored + 1
    if scored == 0:
        return Quality(None, None, None, 0)
    return Quality(pq / scored, sq / scored, rq / scored, scored)
