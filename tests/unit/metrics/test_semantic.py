"""Mean IoU: the truth from panoptic maps, confusion counts and scores, all worked by hand."""

import numpy as np
import pytest
from helpers_panoptic import Truth

from ecocli.metrics.semantic import IGNORED, count_confusion, semantic_quality, semantic_truth


def test_semantic_truth__crowd_void_and_unlisted__keeps_the_crowd_and_ignores_the_rest() -> None:
    true_map = np.array([[70000, 5], [0, 6]], np.int32)
    segments = [Truth(70000, 9, True, 1), Truth(5, 3, False, 1)]
    assert semantic_truth(true_map, segments, (3, 9)).tolist() == [[1, 0], [IGNORED, IGNORED]]


def test_count_confusion__two_classes__counts_rows_of_truth_and_skips_ignored() -> None:
    true = np.array([[0, 0, 1, IGNORED]])
    pred = np.array([[0, 1, 1, 0]])
    assert count_confusion(pred, true, 3).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_semantic_quality__class_only_predicted__is_left_out_of_the_mean_but_costs_the_others() -> None:
    # By hand: class 0: 3 / (4 + 3 - 3); class 1: 2 / (2 + 2 - 2); class 2 occurs only in the prediction.
    quality = semantic_quality(np.array([[3, 0, 1], [0, 2, 0], [0, 0, 0]]))
    assert quality.per_class == (0.75, 1.0, None)
    assert quality.miou == pytest.approx(0.875)
    assert quality.pixel_accuracy == pytest.approx(5 / 6)


def test_semantic_quality__nothing_labelled__is_none() -> None:
    quality = semantic_quality(np.zeros((2, 2), np.int64))
    assert (quality.miou, quality.pixel_accuracy, quality.per_class) == (None, None, (None, None))


def test_semantic_quality__absent_classes_too__counts_the_class_only_predicted_as_zero() -> None:
    # By hand, as cityscapesScripts: classes 0 and 1 as above, class 2 0 / 1, class 3 nowhere.
    confusion = np.array([[3, 0, 1, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    quality = semantic_quality(confusion, absent=True)
    assert quality.per_class == (0.75, 1.0, 0.0, None)
    assert quality.miou == pytest.approx(1.75 / 3)
    assert quality.pixel_accuracy == pytest.approx(5 / 6)
