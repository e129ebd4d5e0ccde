"""Panoptic quality: every rule worked by hand on a few pixels, and equality with a slow plain reference."""

import numpy as np
import pytest
from helpers_panoptic import Pred, Truth, random_scene, reference_average, reference_counts
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocli.errors import DataError
from ecocli.metrics.panoptic_quality import (
    ImageCounts,
    count_panoptic_image,
    image_pq,
    panoptic_quality,
    sum_counts,
)

CATEGORIES = (3, 7, 200)


def row(*runs: tuple[int, int]) -> np.ndarray:
    """Return a map of one row from (id, pixels) runs."""
    return np.concatenate([np.full(pixels, value, np.int32) for value, pixels in runs])[None]


def as_lists(counts: ImageCounts) -> list[list[float]]:
    return [counts.iou_sum.tolist(), counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()]


def test_count_panoptic_image__overlap_of_more_than_half__is_matched_with_its_iou() -> None:
    # By hand: 6 shared pixels, prediction 8, truth 8: IoU = 6 / 10.
    counts = count_panoptic_image(
        row((0, 2), (1, 8)), [Pred(1, 7)], row((9, 8), (0, 2)), [Truth(9, 7, False, 8)], CATEGORIES
    )
    # The last 2 predicted pixels lie on void and leave the union: 6 / 8.
    assert as_lists(counts) == [[0, 6 / 8, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_count_panoptic_image__iou_of_exactly_one_half__is_no_match() -> None:
    # By hand: 2 shared of a union of 4.
    counts = count_panoptic_image(
        row((1, 3), (2, 1)),
        [Pred(1, 3), Pred(2, 200)],
        row((8, 1), (9, 3)),
        [Truth(8, 200, False, 1), Truth(9, 3, False, 3)],
        CATEGORIES,
    )
    assert as_lists(counts) == [[0, 0, 0], [0, 0, 0], [1, 0, 1], [1, 0, 1]]


def test_count_panoptic_image__other_category__is_never_matched() -> None:
    counts = count_panoptic_image(row((1, 5)), [Pred(1, 3)], row((9, 5)), [Truth(9, 7, False, 5)], CATEGORIES)
    assert as_lists(counts) == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_count_panoptic_image__true_area__is_the_annotations_and_not_the_maps() -> None:
    # By hand: the annotation says 9 pixels where the map has 5: 5 / (5 + 9 - 5) = 5 / 9.
    counts = count_panoptic_image(row((1, 5)), [Pred(1, 3)], row((9, 5)), [Truth(9, 3, False, 9)], CATEGORIES)
    assert counts.iou_sum[0] == 5 / 9


def test_count_panoptic_image__prediction_mostly_on_void__is_no_false_positive() -> None:
    # By hand: 3 of 5 pixels on void excuse segment 1; 1 of 2 on void (exactly half) does not excuse segment
    # 2.
    counts = count_panoptic_image(
        row((1, 5), (2, 2)),
        [Pred(1, 3), Pred(2, 3)],
        row((0, 3), (9, 2), (0, 1), (9, 1)),
        [Truth(9, 7, False, 3)],
        CATEGORIES,
    )
    assert as_lists(counts) == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_count_panoptic_image__crowd__excuses_its_own_category_and_is_never_missed() -> None:
    # By hand: prediction 1 lies on the crowd of its category, prediction 2 on it with another category.
    counts = count_panoptic_image(
        row((1, 4), (2, 4)), [Pred(1, 3), Pred(2, 7)], row((9, 8)), [Truth(9, 3, True, 8)], CATEGORIES
    )
    assert as_lists(counts) == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("order, expected", [((8, 9), 1), ((9, 8), 0)])
def test_count_panoptic_image__several_crowds_of_a_category__last_listed_counts(
    order: tuple[int, int], expected: int
) -> None:
    # The prediction lies on crowd 8 alone: excused only if 8 is the last crowd that the annotation lists.
    crowds = {8: Truth(8, 3, True, 4), 9: Truth(9, 3, True, 4)}
    counts = count_panoptic_image(
        row((1, 4), (0, 4)), [Pred(1, 3)], row((8, 4), (9, 4)), [crowds[i] for i in order], CATEGORIES
    )
    assert counts.fp.tolist() == [expected, 0, 0]


def test_count_panoptic_image__unlisted_true_id__is_neither_void_nor_missed() -> None:
    # As in panopticapi: pixels of an id that the annotation does not list match nothing and excuse nothing.
    counts = count_panoptic_image(row((1, 4)), [Pred(1, 3)], row((5, 4)), [], CATEGORIES)
    assert as_lists(counts) == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_count_panoptic_image__listed_true_id_absent_from_map__is_missed() -> None:
    counts = count_panoptic_image(row((0, 4)), [], row((0, 4)), [Truth(5, 7, False, 4)], CATEGORIES)
    assert counts.fn.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "pred_map, pred, true_segments, message",
    [
        (row((1, 2), (4, 2)), [Pred(1, 3)], [], r"map holds segment ids that its list does not: \[4\]"),
        (row((1, 4)), [Pred(1, 3), Pred(6, 3)], [], r"list of .* holds ids that its map does not: \[6\]"),
        (
            row((1, 4)),
            [Pred(1, 4)],
            [],
            r"predicted segment 1 has the unknown category 4; known are \[3, 7, 200",
        ),
        (row((0, 4)), [], [Truth(9, 4, False, 1)], r"ground-truth segment 9 has the unknown category 4"),
        (row((1, 4)), [Pred(1, 3), Pred(1, 7)], [], r"predicted segment id is listed twice among \[1, 1\]"),
        (row((0, 4)), [Pred(0, 3)], [], r"predicted segment id lies outside 1..16777215: \[0\]"),
        (row((1, 4)), [Pred(1, 3)], [Truth(9, 3, False, 0)], r"segment 9 states an area of 0 pixels, which"),
    ],
)
def test_count_panoptic_image__inconsistent_input__is_refused(
    pred_map: np.ndarray, pred: list[Pred], true_segments: list[Truth], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        count_panoptic_image(pred_map, pred, row((9, 4)), true_segments, CATEGORIES)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    num_segments=st.integers(0, 12),
    noise=st.booleans(),
)
def test_count_panoptic_image__any_scene__equals_plain_reference_exactly(
    seed: int, height: int, width: int, num_segments: int, noise: bool
) -> None:
    rng = np.random.default_rng(seed)
    pred_map, pred, true_map, truth = random_scene(rng, height, width, num_segments, CATEGORIES)
    if noise:  # No coherent runs, void sprinkled over both.
        true_map[rng.random(true_map.shape) < 0.3] = 0
        truth = [Truth(t.id, t.category_id, t.is_crowd, max(int((true_map == t.id).sum()), 1)) for t in truth]
        pred_map[rng.random(pred_map.shape) < 0.3] = 0
        pred = [p for p in pred if (pred_map == p.id).any()]
    counts = count_panoptic_image(pred_map, pred, true_map, truth, CATEGORIES)
    expected = reference_counts(pred_map, pred, true_map, truth, CATEGORIES)
    tallies = [expected[category_id] for category_id in CATEGORIES]
    assert as_lists(counts) == [[getattr(t, field) for t in tallies] for field in ("iou_sum", "tp", "fp", "fn")]
    quality = panoptic_quality(counts)
    average = reference_average(tallies)
    assert (quality.pq, quality.sq, quality.rq) == (average or (None, None, None))
    assert image_pq(counts) == quality.pq


def test_panoptic_quality__things_and_stuff__are_averaged_apart() -> None:
    # By hand: class 0: 1.5 / (2 + 0.5) = 0.6; class 1 has nothing; class 2: no match, SQ 0 by definition.
    counts = ImageCounts(np.array([1.5, 0.0, 0.0]), np.array([2, 0, 0]), np.array([1, 0, 0]), np.array([0, 0, 4]))
    quality = panoptic_quality(counts, (True, True, False))
    assert quality.pq == pytest.approx(0.3)
    assert quality.overall.num_classes == 2
    assert (quality.things.pq, quality.things.sq, quality.things.rq) == (0.6, 0.75, 0.8)
    assert (quality.stuff.pq, quality.stuff.sq, quality.stuff.rq) == (0.0, 0.0, 0.0)
    assert quality.per_class[1].pq is None


def test_panoptic_quality__nothing_to_score__is_none_everywhere() -> None:
    quality = panoptic_quality(ImageCounts.zeros(2), (True, False))
    assert (quality.pq, quality.things.sq, quality.stuff.rq, image_pq(ImageCounts.zeros(2))) == (None,) * 4


def test_panoptic_quality__wrong_number_of_kinds__is_refused() -> None:
    with pytest.raises(ValueError, match="is_thing has 1 entries, the counts have 2 classes"):
        panoptic_quality(ImageCounts.zeros(2), (True,))


def test_sum_counts__two_images__adds_every_field() -> None:
    one = ImageCounts(np.array([0.75]), np.array([1]), np.array([2]), np.array([3]))
    assert as_lists(sum_counts([one, one], 1)) == [[1.5], [2], [4], [6]]
