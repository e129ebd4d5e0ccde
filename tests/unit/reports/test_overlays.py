"""Overlays: colours of segments, void, outlines, names; and sheets of panels."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from ecocli.data.categories import Category
from ecocli.reports.overlays import PanopticPicture, draw_overlay, drawing_scale, segment_colors
from ecocli.reports.sheet import Panel, draw_sheet

CATEGORIES = (
    Category(4, "cat", "animal", True, (200, 100, 50)),
    Category(9, "sky", "ground", False, (10, 20, 240)),
)


@dataclass(frozen=True)
class Listed:
    id: int
    category_id: int


def test_segment_colors__several_instances__start_with_the_categorys_and_differ() -> None:
    colors = segment_colors([Listed(5, 4), Listed(2, 4), Listed(7, 9), Listed(6, 4)], CATEGORIES)
    assert colors[2] == (200, 100, 50)
    assert colors[7] == (10, 20, 240)
    assert len(set(colors.values())) == 4
    assert colors == segment_colors([Listed(6, 4), Listed(7, 9), Listed(2, 4), Listed(5, 4)], CATEGORIES)


def test_draw_overlay__two_segments_and_void__blends_hatches_and_outlines() -> None:
    # By hand: grey 100, opacity 0.6 (100 * 0.4 + 200 * 0.6 = 160, ...), void (100 + 128) / 2 = 114, white
    # where row + column is 0 or 1 more than a multiple of 8.
    panoptic_map = np.zeros((6, 8), np.int32)
    panoptic_map[:, :3], panoptic_map[:, 3:6] = 2, 7
    picture = PanopticPicture(panoptic_map, [Listed(2, 4), Listed(7, 9)])
    drawn = np.asarray(draw_overlay(np.full((6, 8, 3), 100, np.uint8), picture, CATEGORIES))
    assert drawn[0].tolist() == [
        [160, 100, 70],
        [160, 100, 70],
        [255, 255, 255],
        [46, 52, 184],
        [46, 52, 184],
        [255, 255, 255],
        [114, 114, 114],
        [114, 114, 114],
    ]
    assert drawn[1, 6:].tolist() == [[114, 114, 114], [255, 255, 255]]


def test_draw_overlay__large_and_small_segment__names_the_large_one_alone() -> None:
    panoptic_map = np.full((60, 120), 7, np.int32)
    panoptic_map[:4, :4] = 2
    plain = np.full((60, 120, 3), 100, np.uint8)
    drawn = np.asarray(draw_overlay(plain, PanopticPicture(panoptic_map, [Listed(2, 4), Listed(7, 9)]), CATEGORIES))
    label = (drawn == (20, 20, 24)).all(axis=2)
    # The name stands around the middle of the large segment, and nowhere near the corner.
    assert label[20:40, 40:80].any()
    assert not label[:12, :30].any()


def test_draw_overlay__same_input__gives_the_same_pixels() -> None:
    panoptic_map = np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.int32)
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    picture = PanopticPicture(panoptic_map, [Listed(1, 4), Listed(2, 9)])
    first, again = (draw_overlay(image, picture, CATEGORIES, 3) for _ in range(2))
    assert first.size == (120, 120)
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("height, width, expected", [(128, 128, 3), (480, 640, 1), (2048, 1024, 1), (64, 90, 4)])
def test_drawing_scale__image_sizes__enlarges_small_ones_alone(height: int, width: int, expected: int) -> None:
    assert drawing_scale(height, width) == expected


def test_draw_sheet__rows_of_different_length__holds_every_panel() -> None:
    red, blue = (Image.new("RGB", (30, 20), color) for color in ("red", "blue"))
    sheet = draw_sheet([[Panel(red, "a"), Panel(blue, "b", "note")], [Panel(blue, "c")]])
    # By hand: 2 panels of 30 and 3 margins of 12; 2 rows of 20 + 40 and 3 margins of 12.
    assert sheet.size == (96, 156)
    assert sheet.getpixel((12, 12)) == (255, 0, 0)
    assert sheet.getpixel((54, 12)) == sheet.getpixel((12, 84)) == (0, 0, 255)
    # Captions are written below the pictures.
    below = np.asarray(sheet)[32:70]
    assert (below.sum(axis=2) < 300).any()


def test_draw_overlay__name_larger_than_its_segment__left_out() -> None:
    panoptic_map = np.full((60, 120), 7, np.int32)
    panoptic_map[20:40, 50:70] = 2  # deep enough for a name, but not much larger than one
    plain = np.full((60, 120, 3), 100, np.uint8)
    drawn = np.asarray(draw_overlay(plain, PanopticPicture(panoptic_map, [Listed(2, 4), Listed(7, 9)]), CATEGORIES))
    assert not (drawn[20:40, 50:70] == (20, 20, 24)).all(axis=2).any()
