"""Exports become data sets that the check finds nothing wrong with; expected segments are counted by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import two_halves, write_custom
from helpers_exports import (
    HEIGHT,
    WIDTH,
    class_map,
    instance_content,
    write_class_masks,
    write_cvat_masks,
    write_instances,
    write_photos,
)
from PIL import Image
from pycocotools import mask as coco_mask

from ecocli.config.dataset import DatasetConfig
from ecocli.data.categories import COCO
from ecocli.data.checking import check_image, check_split, panoptic_notes
from ecocli.data.datasets import open_dataset
from ecocli.data.exports.convert import convert, describe
from ecocli.data.exports.layouts import find_layout
from ecocli.data.exports.regions import Export
from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import DataError, UsageError


def export_of(root: Path, **options: Any) -> Export:
    found = find_layout(root, **options)
    assert found is not None
    assert not isinstance(found, list)
    return found


def opened(toml: Path) -> dict[str, PanopticDataset]:
    """Both splits, checked."""
    splits = {split: open_dataset(DatasetConfig(name=str(toml)), split) for split in ("train", "val")}
    for dataset in splits.values():
        assert check_split(dataset, check=check_image, notes=panoptic_notes).faults == []
    return splits


def segments(dataset: PanopticDataset, index: int = 0) -> list[tuple[str, int]]:
    names = {category.id: category.name for category in dataset.categories}
    return sorted((names[segment.category_id], segment.area) for segment in dataset.records[index].segments)


def test_convert__cvat_masks__objects_are_things_and_stuff_is_one(tmp_path: Path) -> None:
    write_cvat_masks(tmp_path / "export")
    made = convert(export_of(tmp_path / "export"), tmp_path / "out", "mine", stuff=["sky"])
    assert (made.images, made.things, made.hidden) == ({"train": 1, "val": 1}, ("house",), 0)
    assert made.segments == {"sky": 2, "house": 4}
    splits = opened(made.toml)
    assert segments(splits["val"]) == [("house", 6), ("house", 9), ("sky", 25)]
    assert [(c.name, c.is_thing, c.color) for c in splits["val"].categories] == [
        ("sky", False, (128, 0, 0)),
        ("house", True, (0, 0, 128)),
    ]


def test_convert__class_masks__things_are_connected_pieces(tmp_path: Path) -> None:
    write_class_masks(tmp_path / "export")
    export = export_of(tmp_path / "export", names={"2": "house"})
    made = convert(export, tmp_path / "out", "mine", things=["house"])
    assert segments(opened(made.toml)["train"]) == [("class 1", 25), ("house", 6), ("house", 9)]
    everything_stuff = convert(export, tmp_path / "other", "mine")
    assert segments(opened(everything_stuff.toml)["train"]) == [("class 1", 25), ("house", 15)]


def test_convert__polygons_and_run_lengths__small_objects_before_large(tmp_path: Path) -> None:
    square = [[2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]]
    inner = np.zeros((HEIGHT, WIDTH), np.uint8)
    inner[2:4, 3:5] = 1
    code = coco_mask.encode(np.asfortranarray(inner))
    runs = {"size": [HEIGHT, WIDTH], "counts": [20, 2, 4, 2, 20]}
    text = {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    write_instances(tmp_path / "export", [text, square, runs, crowd], prefix="somewhere\\", crowds=(4,))
    made = convert(export_of(tmp_path / "export"), tmp_path / "out", "mine")
    # The same four pixels twice: the later one covers the first.
    assert made.hidden == 1
    splits = opened(made.toml)
    dataset = next(d for d in splits.values() if d.records[0].file_name == "images/photo0.jpg")
    polygon = int(coco_mask.area(coco_mask.frPyObjects(square, HEIGHT, WIDTH)[0]))
    assert segments(dataset) == [("house", 4), ("house", polygon - 4), ("house", HEIGHT * WIDTH - polygon)]
    assert [segment.is_crowd for segment in sorted(dataset.records[0].segments, key=lambda s: -s.area)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("drawn", "fault"),
    [
        ([], "boxes alone are no masks"),
        ([[0.0, 0.0, 1.0, 1.0]], "a polygon has 4 numbers"),
        ([[0.0, 0.0, 1e9, 0.0, 1e9, 1e9]], "far outside the photo"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 5]}, "its runs do not fill 6 x 8 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": "zz~"}, "segmentation cannot be read"),
        ({"size": [3, 3], "counts": [9]}, r"its size is \[3, 3\]"),
        ({"counts": [48]}, "segmentation cannot be read"),
    ],
)
def test_convert__hostile_segmentation__refused(tmp_path: Path, drawn: Any, fault: str) -> None:
    write_instances(tmp_path / "export", [drawn])
    with pytest.raises(DataError, match=fault):
        convert(export_of(tmp_path / "export"), tmp_path / "out", "mine")
    assert not (tmp_path / "out" / "data.toml").exists()


def test_convert__listed_splits__kept(tmp_path: Path) -> None:
    write_cvat_masks(tmp_path / "export")
    lists = tmp_path / "export" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("photo1\n")
    (lists / "val.txt").write_text("photo0\n")
    made = convert(export_of(tmp_path / "export"), tmp_path / "out", "mine")
    assert [d.records[0].file_name for d in opened(made.toml).values()] == ["photo1.jpg", "photo0.jpg"]


def test_convert__drawn_split__as_many_as_asked_and_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "export" / "masks").mkdir(parents=True)
    for name in write_photos(tmp_path / "export" / "photos", 10):
        Image.fromarray(class_map()).save(tmp_path / "export" / "masks" / f"{Path(name).stem}_mask.png")
    export = export_of(tmp_path / "export")
    first = convert(export, tmp_path / "a", "mine", val_ratio=0.3)
    again = convert(export, tmp_path / "b", "mine", val_ratio=0.3)
    assert first.images == {"train": 7, "val": 3}
    assert (tmp_path / "a" / "panoptic_val.json").read_bytes() == (tmp_path / "b" / "panoptic_val.json").read_bytes()
    assert again.toml.read_text() == first.toml.read_text()


def test_convert__mask_faults__say_what_to_do(tmp_path: Path) -> None:
    write_class_masks(tmp_path / "a", class_map()[:, :7])
    with pytest.raises(DataError, match=r"is 7 x 6 pixels, its photo 8 x 6.*Export the masks at the size"):
        convert(export_of(tmp_path / "a"), tmp_path / "out", "mine")
    write_cvat_masks(tmp_path / "b", labelmap="sky:128,0,0::\n")
    with pytest.raises(DataError, match=r"hold the colour 000080, which it does not name.*name:255,0,0::"):
        convert(export_of(tmp_path / "b"), tmp_path / "out", "mine")
    write_cvat_masks(tmp_path / "c", labelmap="sky 128\n")
    with pytest.raises(DataError, match=r"labelmap.txt cannot be read.*Expected a line name:R,G,B::"):
        convert(export_of(tmp_path / "c"), tmp_path / "out", "mine")
    colors = np.stack([np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)] * 3, 2).astype(np.uint8)
    (tmp_path / "d" / "masks").mkdir(parents=True)
    for number, name in enumerate(write_photos(tmp_path / "d" / "photos", 6)):
        Image.fromarray(colors + np.array([number, 0, 0], np.uint8)).save(
            tmp_path / "d" / "masks" / f"{Path(name).stem}.png"
        )
    with pytest.raises(DataError, match=r"different values, at most 254.*without smoothing"):
        convert(export_of(tmp_path / "d"), tmp_path / "out", "mine")


def test_convert__names__unknown_twice_or_no_value__refused(tmp_path: Path) -> None:
    write_class_masks(tmp_path / "export")
    with pytest.raises(UsageError, match=r"no class 'car' in the export. It has class 1, class 2"):
        convert(export_of(tmp_path / "export"), tmp_path / "out", "mine", things=["car"])
    with pytest.raises(UsageError, match="Two values of the masks are called 'sky'"):
        convert(export_of(tmp_path / "export", names={"1": "sky", "2": "sky"}), tmp_path / "out", "mine")
    with pytest.raises(UsageError, match="--names has the value 'x', expected an index"):
        convert(export_of(tmp_path / "export", names={"x": "sky"}), tmp_path / "out", "mine")


def test_convert__one_photo__refused(tmp_path: Path) -> None:
    write_class_masks(tmp_path / "export")
    (tmp_path / "export" / "masks" / "photo1.png").unlink()
    with pytest.raises(DataError, match="has 1 images with annotations, expected two or more"):
        convert(export_of(tmp_path / "export"), tmp_path / "out", "mine")


def test_find_layout__panoptic__described_as_it_lies(tmp_path: Path) -> None:
    write_custom(tmp_path / "data", [two_halves(42, (7, 17), (8, 193))], COCO).unlink()
    found = find_layout(tmp_path / "data")
    assert isinstance(found, list)
    (tmp_path / "mine.toml").write_text(describe("mine", found, tmp_path))
    assert len(open_dataset(DatasetConfig(name=str(tmp_path / "mine.toml")), found[0].name)) > 0


def test_find_layout__fiftyone__labels_beside_data(tmp_path: Path) -> None:
    names = write_photos(tmp_path / "data")
    content = instance_content(names, [[[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]])
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert export_of(tmp_path).splits() == {"": ("data/photo0.jpg", "data/photo1.jpg")}


def test_find_layout__photos_elsewhere__named(tmp_path: Path) -> None:
    write_instances(tmp_path / "export", [[[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]])
    (tmp_path / "export" / "images").rename(tmp_path / "photos")
    with pytest.raises(DataError, match=r"2 of 2 photos .* are in no folder, the first is photo0.jpg.*--images"):
        find_layout(tmp_path / "export")
    assert export_of(tmp_path / "export", images=tmp_path / "photos").image_root == tmp_path / "photos"


def test_find_layout__nothing_known__none(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    assert find_layout(tmp_path) is None
    with pytest.raises(DataError, match="is no folder"):
        find_layout(tmp_path / "none")
