from pathlib import Path

import numpy as np
from helpers_data import two_halves, write_custom

from ecocli.config.dataset import DatasetConfig, SceneConfig, ShapesConfig
from ecocli.data.categories import COCO, SHAPES
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import Segment
from ecocli.data.preview import color_segments, contact_sheet


def test_color_segments__stuff_crowd_and_void__their_colors() -> None:
    id_map = np.zeros((6, 9), np.int32)
    id_map[:, 3:6] = 1
    id_map[:, 6:] = 2
    segments = [Segment(1, 9, False, 18, (3, 0, 3, 6)), Segment(2, 13, True, 18, (6, 0, 3, 6))]
    colored = color_segments(id_map, segments, SHAPES)
    # Away from the borders: sky (70, 170, 240) as it is, a crowd of grass (60, 160, 70) at half brightness.
    assert colored[3, 1].tolist() == [0, 0, 0]
    assert colored[3, 4].tolist() == [70, 170, 240]
    assert colored[3, 7].tolist() == [30, 80, 35]
    assert colored[3, 3].tolist() == [35, 85, 120]


def test_color_segments__two_things_of_a_class__two_shades() -> None:
    id_map = np.repeat(np.array([[1, 2]], np.int32), 4, axis=1)
    segments = [Segment(1, 1, False, 4, (0, 0, 4, 1)), Segment(2, 1, False, 4, (4, 0, 4, 1))]
    colored = color_segments(id_map, segments, SHAPES)
    assert colored[0, 1].tolist() != colored[0, 6].tolist()


def test_contact_sheet__shapes__grid_of_pairs_with_legend(tmp_path: Path) -> None:
    shapes = ShapesConfig(train=1, val=3, scenes=SceneConfig(size=48))
    dataset = open_dataset(DatasetConfig(root=str(tmp_path), shapes=shapes), "val")
    sheet = contact_sheet(dataset, [0, 1, 2], columns=2, tile_px=96)
    # Two pairs of 96 + 6 + 96, 12 between them, 6 on both sides.
    assert sheet.width == 2 * 198 + 12 + 12
    assert sheet.height > 2 * (96 + 6) + 6 + 22
    shown = np.asarray(sheet)[6 : 6 + 96 : 2, 6 : 6 + 96 : 2]
    assert np.array_equal(shown, dataset.load_image(dataset.records[0]))


def test_contact_sheet__many_categories__no_legend(tmp_path: Path) -> None:
    path = write_custom(tmp_path, [two_halves(3, (1, 1), (2, 200))], COCO)
    dataset = open_dataset(DatasetConfig(name=str(path)), "val")
    assert contact_sheet(dataset, [0], columns=1, tile_px=32).size == (2 * 32 + 6 + 12, 32 + 12)
