"""Boxes of COCO's instance files and of drawn scenes, and their random changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ecocli.config.dataset import AugmentationConfig, DatasetConfig, SceneConfig, ShapesConfig, WindowConfig
from ecocli.data.box_training import BoxTrainingDataset, augment_boxes
from ecocli.data.boxes import read_instances
from ecocli.data.categories import SHAPES
from ecocli.data.datasets import open_dataset, take
from ecocli.data.detection import class_indices, open_detection
from ecocli.errors import DataError
from ecocli.tasks.registry import task_named

# Ids with gaps, as COCO's are; an image without boxes, a crowd, fractions of pixels.
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 20, "file_name": "b.png", "height": 30, "width": 40},
        {"id": 3, "file_name": "a.png", "height": 20, "width": 10},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}],
    "annotations": [
        {"id": 7, "image_id": 20, "category_id": 90, "bbox": [1.5, 2.25, 10, 4], "area": 30.5, "iscrowd": 0},
        {"id": 8, "image_id": 20, "category_id": 1, "bbox": [0, 0, 40, 30], "area": 900, "iscrowd": 1},
        {"id": 9, "image_id": 20, "category_id": 13, "bbox": [35, 20, 9, 15]},
    ],
}


def write_instances(folder: Path, content: dict[str, Any] = CONTENT) -> DatasetConfig:
    (folder / "images").mkdir(exist_ok=True)
    for image in content["images"]:
        picture = np.zeros((image["height"], image["width"], 3), np.uint8)
        picture[..., 0] = np.arange(image["width"])
        Image.fromarray(picture).save(folder / "images" / image["file_name"])
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "own.toml").write_text('name = "own"\n[splits.val]\nimages = "images"\ninstances = "instances.json"\n')
    return DatasetConfig(name=str(folder / "own.toml"))


def test_open_detection__gaps_crowds_and_empty_images__all_of_them(tmp_path: Path) -> None:
    dataset = open_detection(write_instances(tmp_path), "val")
    assert [(category.id, category.is_thing) for category in dataset.categories] == [(1, True), (13, True), (90, True)]
    # COCO's own colours where the file has none.
    assert dataset.categories[0].color == (0xDC, 0x14, 0x3C)
    assert [record.image_id for record in dataset.records] == ["3", "20"]
    empty, full = dataset.records
    assert len(empty.boxes) == 0
    assert full.boxes.tolist() == [[1.5, 2.25, 10, 4], [0, 0, 40, 30], [35, 20, 9, 15]]
    assert full.category_ids.tolist() == [90, 1, 13]
    assert full.areas.tolist() == [30.5, 900, 135]
    assert full.is_crowd.tolist() == [False, True, False]
    assert [record.image_id for record in take(dataset, [1]).records] == ["20"]
    assert dataset.load_image(full).shape == (30, 40, 3)


def test_class_indices__ranks_or_ids__as_the_model_has_classes(tmp_path: Path) -> None:
    categories = open_detection(write_instances(tmp_path), "val").categories
    assert class_indices(categories, 3) == {1: 0, 13: 1, 90: 2}
    # The published models' classes are COCO's ids.
    assert class_indices(categories, 91) == {1: 1, 13: 13, 90: 90}
    with pytest.raises(DataError, match="has 80 classes, but the data set has 3 categories with ids up to 90"):
        class_indices(categories, 80)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0, 0, -1, 4]}, r"gives an annotation of image 20 the bbox \[0, 0, -1, 4\], whose width or height"),
        ({"bbox": [0, 0, 4]}, "a bbox of 3 numbers, expected x, y, width, height"),
        ({"bbox": [0, 0, 4, float("nan")]}, "the number nan in its bbox, expected pixels"),
        ({"category_id": 2}, "the unknown category 2"),
        ({"image_id": 4}, "has an annotation of image 4, which is not among its images"),
        ({"segments_info": []}, "holds panoptic segments, not instances; the instance file is usually called"),
    ],
)
def test_read_instances__faulty_annotation__names_it(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    annotations = [{**CONTENT["annotations"][0], **change}]
    (tmp_path / "x.json").write_text(json.dumps({**CONTENT, "annotations": annotations}))
    with pytest.raises(DataError, match=message):
        read_instances(tmp_path / "x.json")


def test_open_dataset__own_data_without_panoptic_maps__says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[splits.val\] of .* names no panoptic annotations"):
        open_dataset(write_instances(tmp_path), "val")


def test_open_detection__shapes__the_things_of_the_same_scenes(tmp_path: Path) -> None:
    shapes = ShapesConfig(train=1, val=4, scenes=SceneConfig(size=64, crowd=1.0, hard_weight=1.0))
    config = DatasetConfig(root=str(tmp_path), shapes=shapes)
    panoptic, boxes = open_dataset(config, "val"), open_detection(config, "val")
    assert boxes.categories == tuple(category for category in SHAPES if category.is_thing)
    found = 0
    for with_map, record in zip(panoptic.records, boxes.records, strict=True):
        id_map = panoptic.load_panoptic(with_map)
        things = [segment for segment in with_map.segments if segment.category_id <= 8]
        assert record.category_ids.tolist() == [segment.category_id for segment in things]
        assert record.is_crowd.tolist() == [segment.is_crowd for segment in things]
        for segment, box, area in zip(things, record.boxes, record.areas, strict=True):
            rows, columns = np.nonzero(id_map == segment.id)
            wanted = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (box.tolist(), area) == (wanted, len(rows))
            found += 1
    assert found > 4
    assert boxes.fingerprint == panoptic.fingerprint


def test_box_training_dataset__no_change__relative_boxes_without_crowds(tmp_path: Path) -> None:
    dataset = open_detection(write_instances(tmp_path), "val")
    samples = BoxTrainingDataset(dataset, {1: 0, 13: 1, 90: 2}, AugmentationConfig(flip_ratio=0.0), seed=0)
    assert len(samples) == 2
    assert samples[0, 0].boxes.shape == (0, 4)
    sample = samples[0, 1]
    assert sample.labels.tolist() == [2, 1]
    # Worked by hand; the second box is cut at the border of the 40 x 30 image: 35..40 and 20..30.
    expected = [[6.5 / 40, 4.25 / 30, 10 / 40, 4 / 30], [37.5 / 40, 25 / 30, 5 / 40, 10 / 30]]
    torch.testing.assert_close(sample.boxes, torch.tensor(expected))


@pytest.mark.parametrize(
    "recipe",
    [
        AugmentationConfig(flip_ratio=1.0),
        AugmentationConfig(
            short_edges_px=(40, 64),
            long_edge_px=90,
            window=WindowConfig(ratio=1.0, short_edges_px=(50,), min_px=30, max_px=45),
        ),
        AugmentationConfig(scale_range=(0.4, 1.8), crop_height_px=48, crop_width_px=56),
        AugmentationConfig(short_edges_px=(60,), crop_height_px=40, crop_width_px=40),
    ],
)
def test_augment_boxes__random_changes__boxes_stay_on_their_objects(recipe: AugmentationConfig) -> None:
    # One bright rectangle: its pixels after the change are where its box is.
    inside = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        left, top = int(rng.integers(0, 40)), int(rng.integers(0, 30))
        image = np.zeros((60, 80, 3), np.uint8)
        image[top : top + 25, left : left + 30] = 255
        changed, corners = augment_boxes(image, np.array([[left, top, left + 30.0, top + 25.0]]), recipe, rng)
        rows, columns = np.nonzero((changed[..., 0] > 127) & (changed[..., 0] != 128))
        if len(rows) < 30:
            continue
        inside += 1
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert corners[0] == pytest.approx(found, abs=1.01)
    assert inside >= 10


def test_check__instances__every_kind_of_fault_and_note(tmp_path: Path) -> None:
    content = json.loads(json.dumps(CONTENT))
    boxes = [[1, 1, 0, 4], [30, 20, 20, 5], [2, 2, 4, 4], [2, 2, 4, 4], [8, 8, 3, 3]]
    content["annotations"] = [
        {"id": number, "image_id": 20, "category_id": 90, "bbox": box, "area": area}
        for number, (box, area) in enumerate(zip(boxes, [0, 100, 16, 16, 400], strict=True))
    ]
    task, config = task_named("detection"), write_instances(tmp_path, content)
    seen: list[int] = []
    dataset = task.open(config, "val", check_files=False)
    report = task.check(dataset, sample=None, processes=1, advance=seen.append)
    assert (report.images, report.checked, report.segments, report.crowds, sum(seen)) == (2, 2, 5, 0, 2)
    expected = ["has no area", "reaches 10 pixels beyond", "annotated area 400", "is there 2 times"]
    assert len(report.faults) == 4
    assert all(part in fault.text for part, fault in zip(expected, report.faults, strict=True))
    assert {fault.image_id for fault in report.faults} == {"20"}
    assert "2 of 3 categories have no box in the images looked at: person, stop sign" in report.notes
    (tmp_path / "images" / "b.png").unlink()
    broken = task.check(dataset, sample=None, processes=1, advance=seen.append)
    assert "b.png" in broken.faults[0].text
