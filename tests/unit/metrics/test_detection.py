"""Box AP from the table against pycocotools."""

from dataclasses import astuple

import numpy as np
import pytest
from helpers_detection import CLASSES, Found, Scenes, official_stats, random_scenes, table_of

from ecocli.metrics.bootstrap import one_hot
from ecocli.metrics.box_matching import TrueBoxes, image_ap, image_box_pq, match_detections, positives
from ecocli.metrics.detection import DetectionTable


@pytest.mark.parametrize("seed", range(12))
def test_box_quality__any_assignment__equals_pycocotools(seed: int) -> None:
    scenes = random_scenes(seed)
    table = table_of(scenes)
    assignment = np.random.default_rng(seed).integers(0, 3, len(scenes.truths))
    expected = official_stats(scenes.truths, [exits[e] for exits, e in zip(scenes.found, assignment, strict=True)])
    found = [-1.0 if value is None else value for value in astuple(table.box_quality(one_hot(assignment, 3)))]
    assert found == pytest.approx(expected, abs=1e-9)
    assert table.quality(one_hot(assignment, 3)) == pytest.approx(expected[0], abs=1e-9)


def test_box_quality__more_than_a_hundred_of_one_class__equals_pycocotools() -> None:
    scenes = random_scenes(3, images=4, exits=1, most=900)
    assert max(len(exits[0].score) for exits in scenes.found) > 4 * 100
    expected = official_stats(scenes.truths, [exits[0] for exits in scenes.found])
    quality = table_of(scenes).box_quality(np.ones((4, 1)))
    assert [-1.0 if value is None else value for value in astuple(quality)] == pytest.approx(expected, abs=1e-9)


def test_quality__no_true_box_or_no_detection__undefined_or_zero() -> None:
    scenes = random_scenes(0, images=3)
    table = table_of(scenes)
    empty = np.zeros(0, np.int64)
    nothing_true = DetectionTable(
        **{**vars_of(table), "true_image": empty, "true_class": empty, "true_counts": np.zeros((0, 4), np.int64)}
    )
    assert np.isnan(nothing_true.quality(np.full((3, 3), 1 / 3)))
    assert table.first_exits(1).quality(np.zeros((3, 1))) == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_image_ap__each_image__equals_pycocotools_on_it_alone(seed: int) -> None:
    scenes = random_scenes(seed)
    for truth, exits in zip(scenes.truths, scenes.found, strict=True):
        counts = positives(truth, CLASSES)
        for f in exits:
            value = image_ap(match_detections(f.class_index, f.score, f.boxes, truth), counts)
            expected = official_stats([truth], [f])[0] if counts[:, 0].any() else float("nan")
            assert value == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_replicates__each_draw__equals_quality_of_the_repeated_images() -> None:
    # Without equal scores, an image drawn twice is two images side by side.
    scenes = random_scenes(5, images=6, ties=False)
    assignment = np.array([0, 1, 2, 2, 1, 0])
    mixture = np.full((6, 3), 1 / 3)
    found = table_of(scenes).replicates(np.stack([one_hot(assignment, 3), mixture]), 5, seed=7)
    generator = np.random.default_rng(7)
    for row in found:
        drawn = np.sort(generator.integers(0, 6, 6))
        repeated = Scenes(tuple(scenes.truths[i] for i in drawn), tuple(scenes.found[i] for i in drawn))
        table = table_of(repeated)
        assert row[0] == pytest.approx(table.quality(one_hot(assignment[drawn], 3)), abs=1e-9)
        assert row[1] == pytest.approx(table.quality(mixture), abs=1e-9)


def test_contributions__one_image_to_another_exit__predict_the_change_of_the_average_precision() -> None:
    # Many images: one image's change is small, and the interpolation hardly matters.
    scenes = random_scenes(8, images=300)
    table = table_of(scenes)
    deepest = np.full(300, 2)
    contributions = table.contributions()
    base = table.quality(one_hot(deepest, 3))
    expected, found = [], []
    for image in range(0, 300, 3):
        assignment = deepest.copy()
        assignment[image] = 0
        expected.append(table.quality(one_hot(assignment, 3)) - base)
        found.append((contributions[image, 0] - contributions[image, 2]) / 300)
    assert np.corrcoef(found, expected)[0, 1] > 0.9
    assert np.polyfit(found, expected, 1)[0] == pytest.approx(1.0, abs=0.15)


def test_select_and_first_exits__some_images__table_of_those_alone() -> None:
    scenes = random_scenes(2, images=8)
    chosen = np.array([1, 4, 6])
    part = table_of(Scenes(tuple(scenes.truths[i] for i in chosen), tuple(scenes.found[i] for i in chosen)))
    selected = table_of(scenes).select(chosen)
    for assignment in ((0, 0, 0), (2, 1, 0)):
        weights = one_hot(np.array(assignment), 3)
        assert selected.quality(weights) == part.quality(weights)
    assert selected.first_exits(2).num_exits == 2
    assert selected.first_exits(2).quality(one_hot(np.array([0, 1, 1]), 2)) == part.quality(
        one_hot(np.array([0, 1, 1]), 3)
    )


def test_detection_table__index_outside__names_it() -> None:
    table = table_of(random_scenes(1))
    with pytest.raises(ValueError, match=r"class index of the detection table spans 0..\d+, but there are 1"):
        DetectionTable(**{**vars_of(table), "num_classes": 1})
    with pytest.raises(ValueError, match="detections of the detection table must be grouped by ascending image"):
        DetectionTable(**{**vars_of(table), "image": table.image[::-1]})


def vars_of(table: DetectionTable) -> dict[str, object]:
    return {name: getattr(table, name) for name in DetectionTable.__dataclass_fields__}


def test_image_box_pq__worked_by_hand() -> None:
    # Class 0: a perfect box, a miss and a false alarm: 1 / (1 + 1/2 + 1/2). Class 1: a false alarm inside a crowd
    # counts for nothing, so the class does not occur. Class 2: two detections of one box of IoU 0.8: 0.8 / 1.5.
    truth = TrueBoxes(
        np.array([0, 0, 1, 2]),
        np.array([[0, 0, 10, 10], [50, 50, 10, 10], [0, 0, 100, 100], [0, 0, 10, 10]], np.float64),
        np.array([100, 100, 10000, 100], np.float64),
        np.array([False, False, True, False]),
    )
    found = Found(
        np.array([0, 0, 1, 2, 2, 0]),
        np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.4], np.float32),
        np.array(
            [[0, 0, 10, 10], [20, 20, 5, 5], [5, 5, 10, 10], [0, 0, 8, 10], [0, 0, 10, 10], [50, 50, 10, 10]],
            np.float32,
        ),
    )
    assert image_box_pq(found.class_index, found.score, found.boxes, truth) == pytest.approx((0.5 + 0.8 / 1.5) / 2)


def test_image_box_pq__nothing_true_nothing_found__undefined() -> None:
    none = TrueBoxes(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool))
    value = image_box_pq(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), none)
    assert np.isnan(value)
