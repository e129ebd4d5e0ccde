"""Mask AP by Cityscapes' rules, rule by rule and worked by hand; tests/parity compares with the package."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocli.metrics.cityscapes_instance import cityscapes_instance_quality
from ecocli.metrics.instance import InstanceImage, ScoredInstance, TrueInstance, encode_masks

Boxes = list[tuple[int, np.ndarray, float]]


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def image_of(true: Boxes, predicted: Boxes, void: np.ndarray | None = None) -> InstanceImage:
    """True instances with 1 for a group, else 0; predicted ones with their confidence."""
    return InstanceImage(
        tuple(TrueInstance(k, encode_masks(m[None])[0], group > 0) for k, m, group in true),
        tuple(ScoredInstance(k, encode_masks(m[None])[0], score) for k, m, score in predicted),
        None if void is None else encode_masks(void[None])[0],
    )


CAR = (0, box(0, 0, 10, 10), 0)
HIT = (0, box(0, 0, 10, 10), 0.5)


def ap(*images: InstanceImage) -> float | None:
    return cityscapes_instance_quality(images).ap


def test_quality__perfect_prediction__is_one_and_other_values_are_none() -> None:
    quality = cityscapes_instance_quality([image_of([CAR], [HIT])] * 2)
    assert (quality.ap, quality.ap50) == (1.0, 1.0)
    assert (quality.ap75, quality.ap_small, quality.ap_medium, quality.ap_large) == (None, None, None, None)


def test_quality__iou_of_six_tenths__exceeds_two_overlaps() -> None:
    # By hand: 60 / 100 exceeds 0.5 and 0.55; to exceed 0.6 it would have to be more. COCO's AP is 0.3 here.
    assert ap(image_of([CAR], [(0, box(0, 0, 6, 10), 0.9)])) == pytest.approx(0.2)


def test_quality__half_an_instance__does_not_exceed_one_half() -> None:
    assert ap(image_of([CAR], [(0, box(0, 0, 5, 10), 0.9)])) == 0.0


def test_quality__instance_below_100_px__is_not_to_be_found() -> None:
    small = (0, box(20, 20, 9, 11), 0)
    assert ap(image_of([small], [(0, small[1], 0.9)])) is None
    # Found or missed, it changes nothing.
    assert ap(image_of([CAR, small], [HIT])) == 1.0
    assert ap(image_of([CAR, small], [HIT, (0, small[1], 0.9)])) == 1.0


@pytest.mark.parametrize("void, expected", [(None, 0.25), (box(0, 30, 40, 30), 1.0)])
def test_quality__better_scored_mistake__counts_unless_it_is_on_void(void: np.ndarray | None, expected: float) -> None:
    # By hand, at every overlap: confidence 0.9 has precision 0 and recall 0, 0.5 has 1/2 and 1; the line between them
    # encloses (0 + 1/2) / 2. COCO's AP is 1/2.
    assert ap(image_of([CAR], [HIT, (0, box(20, 40, 10, 10), 0.9)], void)) == pytest.approx(expected)


def test_quality__six_tenths_on_void__are_ignored_at_two_overlaps() -> None:
    # 0.6 does not exceed the overlap 0.6, so there and above the prediction is a mistake.
    on_void = (0, box(20, 20, 10, 10), 0.9)
    assert ap(image_of([CAR], [HIT, on_void], box(20, 20, 6, 40))) == pytest.approx(0.2 + 0.8 * 0.25)


def test_quality__half_on_void__is_a_mistake() -> None:
    assert ap(image_of([CAR], [HIT, (0, box(20, 20, 10, 10), 0.9)], box(20, 20, 5, 40))) == pytest.approx(0.25)


def test_quality__prediction_like_a_group__is_neither_right_nor_wrong() -> None:
    group = (0, box(20, 20, 12, 12), 1)
    assert ap(image_of([CAR, group], [HIT, (0, group[1], 0.9)])) == 1.0
    # A small part of the group lies wholly on it; a group of another class excuses nothing.
    assert ap(image_of([CAR, group], [HIT, (0, box(20, 20, 3, 3), 0.9)])) == 1.0
    assert ap(image_of([CAR, (1, *group[1:])], [HIT, (0, group[1], 0.9)])) == pytest.approx(0.25)


def test_quality__small_group__counts_twice_among_the_ignored_pixels() -> None:
    # As the package does: 30 of 100 px on a group of 30 px are 60 ignored ones, which exceed 0.5 and 0.55.
    group = (0, box(20, 20, 3, 10), 1)
    assert ap(image_of([CAR, group], [HIT, (0, box(20, 20, 10, 10), 0.9)])) == pytest.approx(0.2 + 0.8 * 0.25)


def test_quality__two_on_one_instance__the_surer_one_is_right() -> None:
    # The other car is found with less confidence than the double, which is wrong although its IoU is the best.
    far = (0, box(20, 20, 10, 10), 0)
    predicted = [(0, box(0, 0, 10, 10), 0.8), (0, box(0, 0, 10, 10), 0.9), (0, far[1], 0.7)]
    # By hand: (p, r) at 0.7, 0.8, 0.9: (2/3, 1), (1/2, 1/2), (1, 1/2), then (1, 0).
    assert ap(image_of([CAR, far], predicted)) == pytest.approx((2 / 3 + 1 / 2) / 4 + 1 / 2)


def test_quality__equal_confidence__is_one_point_of_the_curve() -> None:
    # One right and one wrong at 0.5: (1/2, 1), then (1, 0).
    assert ap(image_of([CAR], [HIT, (0, box(20, 40, 10, 10), 0.5)])) == pytest.approx(0.75)


def test_quality__classes__are_averaged_where_there_is_something_to_find() -> None:
    # Class 1 is missed, class 2 is predicted and does not occur.
    bus = (1, box(20, 20, 10, 10), 0)
    assert ap(image_of([CAR, bus], [HIT]), image_of([], [(2, bus[1], 0.9)])) == pytest.approx(0.5)


def test_quality__empty_masks_and_nothing_at_all__are_passed_over() -> None:
    assert ap(image_of([], [])) is None
    assert ap(image_of([CAR], [])) == 0.0
    assert ap(image_of([CAR], [HIT, (0, box(0, 0, 0, 0), 0.9)])) == 1.0


def test_quality__ignored_predictions_alone__are_nothing_found() -> None:
    # The package fails here; a class of which nothing is found has AP 0.
    assert ap(image_of([CAR], [(0, box(20, 20, 10, 10), 0.9)], box(20, 20, 10, 10))) == 0.0


@given(st.permutations(range(4)), st.randoms(use_true_random=False))
def test_quality__order_of_images_and_predictions__changes_nothing(order: list[int], random: object) -> None:
    rng = np.random.default_rng(3)
    images = []
    for _ in range(4):
        true = [(int(rng.integers(2)), box(*rng.integers(0, 25, 2), 12, 12), float(rng.random() < 0.2)) for _ in "abc"]
        predicted = [(k, np.roll(m, 1, axis=1), round(float(rng.random()), 1)) for k, m, _ in [*true, *true]]
        images.append(image_of(true, predicted, box(30, 0, 10, 60)))
    shuffled = [images[index] for index in order]
    shuffled = [InstanceImage(one.true, tuple(random.sample(one.predicted, 6)), one.void) for one in shuffled]
    assert ap(*shuffled) == pytest.approx(ap(*images), abs=1e-12)
    assert 0.05 < ap(*images) < 0.95
