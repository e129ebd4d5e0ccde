"""Laws of the drawn scenes; the truth is compared with the picture's own geometry where that is possible."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocli.config.dataset import SceneConfig
from ecocli.data.categories import SHAPES
from ecocli.data.shapes.outlines import Outline, rasterise, regular
from ecocli.data.shapes.scenes import draw_scene, scene_difficulty

SMALL = SceneConfig(size=64)
HARD = SceneConfig(size=96, easy_weight=0.0, medium_weight=0.0)
EASY = SceneConfig(size=96, medium_weight=0.0, hard_weight=0.0)


def test_draw_scene__same_arguments__same_scene() -> None:
    first, second = draw_scene(3, 5, SMALL), draw_scene(3, 5, SMALL)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert first[2] == second[2]


def test_draw_scene__other_seed_index_or_split__other_scene() -> None:
    scenes = [
        draw_scene(0, 0, SMALL),
        draw_scene(1, 0, SMALL),
        draw_scene(0, 1, SMALL),
        draw_scene(0, 0, SMALL, "val"),
    ]
    assert len({hashlib.sha256(image.tobytes()).digest() for image, _, _ in scenes}) == 4


@settings(max_examples=25)
@given(seed=st.integers(0, 2**40), index=st.integers(0, 10**6))
def test_draw_scene__any_scene__segments_describe_the_map(seed: int, index: int) -> None:
    image, id_map, segments = draw_scene(seed, index, SMALL)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert id_map.dtype == np.int32
    assert set(np.unique(id_map).tolist()) - {0} == {segment.id for segment in segments}
    known = {category.id for category in SHAPES}
    for segment in segments:
        rows, columns = np.nonzero(id_map == segment.id)
        assert segment.category_id in known
        assert segment.area == len(rows)
        left, top, width, height = segment.bbox
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)


@settings(max_examples=15)
@given(index=st.integers(0, 10**6))
def test_draw_scene__stuff__one_segment_per_class(index: int) -> None:
    stuff = {category.id for category in SHAPES if not category.is_thing}
    _, _, segments = draw_scene(0, index, SMALL)
    ids = [segment.category_id for segment in segments if segment.category_id in stuff]
    assert len(ids) == len(set(ids)) >= 1


def test_draw_scene__knobs_off__no_void_crowd_lamp_or_worm() -> None:
    knobs = SceneConfig(size=64, void=0.0, crowd=0.0, far_context=0.0, worms=0.0)
    for index in range(30):
        _, id_map, segments = draw_scene(0, index, knobs)
        # Slivers below 14 pixels become unlabelled in every scene, so a few pixels may be.
        assert (id_map == 0).mean() < 0.02
        assert not any(segment.is_crowd for segment in segments)
        assert {6, 7, 8}.isdisjoint(segment.category_id for segment in segments)


def test_draw_scene__knobs_full__void_crowd_and_lamps_occur() -> None:
    knobs = SceneConfig(size=96, easy_weight=0.0, void=1.0, crowd=1.0, far_context=1.0)
    scenes = [draw_scene(0, index, knobs) for index in range(12)]
    assert all((id_map == 0).any() for _, id_map, _ in scenes)
    assert sum(any(segment.is_crowd for segment in segments) for _, _, segments in scenes) >= 8
    lamp_sets = [{s.category_id for s in segments} & {7, 8} for _, _, segments in scenes]
    # The sun or the moon decides for all lamps of an image.
    assert all(len(lamps) <= 1 for lamps in lamp_sets)
    assert {7} in lamp_sets
    assert {8} in lamp_sets


def test_scene_difficulty__regimes__stay_in_their_ranges() -> None:
    # The ranges of SceneConfig's documentation.
    assert all(0.0 <= scene_difficulty(0, index, EASY) <= 0.25 for index in range(50))
    assert all(0.65 <= scene_difficulty(0, index, HARD) <= 1.0 for index in range(50))


def test_draw_scene__hard_regime__more_and_smaller_segments() -> None:
    def mean_count(knobs: SceneConfig) -> float:
        return float(np.mean([len(draw_scene(0, index, knobs)[2]) for index in range(12)]))

    assert mean_count(HARD) > 2 * mean_count(EASY)


def test_draw_scene__lamps__look_alike_by_day_and_night() -> None:
    # The far context must not be readable from the lamp itself: its fill is the same by day and by night.
    knobs = SceneConfig(
        size=96, medium_weight=0.0, hard_weight=0.0, noise=0.0, illumination=0.0, far_context=1.0, void=0.0
    )
    brightness: dict[int, list[float]] = {7: [], 8: []}
    for index in range(40):
        image, id_map, segments = draw_scene(0, index, knobs)
        for segment in segments:
            if segment.category_id in brightness and segment.area > 400:
                brightness[segment.category_id].append(float(np.median(image[id_map == segment.id])))
    assert min(len(values) for values in brightness.values()) >= 5
    assert np.mean(brightness[7]) == pytest.approx(np.mean(brightness[8]), abs=3.0)


def test_draw_scene__color_cue_full__class_pairs_have_their_hue() -> None:
    # Easy scenes keep the hue: disks and rings are red (hue 0), triangles and worms greenish cyan (hue 0.45).
    knobs = EASY.model_copy(update={"color_cue": 1.0, "camouflage": 0.0, "clutter": 0.0, "illumination": 0.0})
    seen = set()
    for index in range(20):
        image, id_map, segments = draw_scene(0, index, knobs)
        for segment in segments:
            if segment.is_crowd or segment.area < 200:
                continue
            red, green, _ = np.median(image[id_map == segment.id], axis=0)
            if segment.category_id in (1, 4):
                assert red > green
                seen.add("red")
            elif segment.category_id in (3, 6):
                assert green > red
                seen.add("green")
    assert seen == {"red", "green"}


def test_rasterise__square__covers_its_area_exactly() -> None:
    # Worked by hand: corners (2, 3), (6, 3), (6, 8), (2, 8) cover 4 x 5 whole pixels.
    points = np.array([[2, 3], [6, 3], [6, 8], [2, 8]], np.float32)
    patch = rasterise([Outline(points)], 20, 20)
    assert patch is not None
    whole = np.zeros((20, 20), np.float32)
    whole[patch.rows, patch.columns] = patch.coverage
    expected = np.zeros((20, 20))
    expected[3:8, 2:6] = 1.0
    # Pillow draws border pixels of a polygon fully: up to one of four fine pixels more on each side.
    assert np.array_equal(whole > 0.5, expected > 0.5)


def test_rasterise__disk_with_hole__area_of_a_ring() -> None:
    # pi (20^2 - 10^2) = 942.5
    outline = Outline(regular((32.0, 32.0), 20.0, 60, 0.0), hole=regular((32.0, 32.0), 10.0, 60, 0.0))
    patch = rasterise([outline], 64, 64)
    assert patch is not None
    assert float(patch.coverage.sum()) == pytest.approx(942.5, rel=0.05)


def test_rasterise__thick_line__area_of_a_capsule() -> None:
    # Length 30, width 6: 30 * 6 + pi * 3^2 = 208.3
    points = np.stack([np.linspace(10, 40, 16), np.full(16, 20.0)], axis=1).astype(np.float32)
    patch = rasterise([Outline(points, width=6.0)], 64, 64)
    assert patch is not None
    assert float(patch.coverage.sum()) == pytest.approx(208.3, rel=0.08)


def test_rasterise__outside__none() -> None:
    assert rasterise([Outline(regular((-50.0, 5.0), 4.0, 8, 0.0))], 32, 32) is None
