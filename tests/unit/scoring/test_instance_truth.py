"""True instances from COCO's instance annotations, against pycocotools' own reading of the same file."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import edit_json, write_coco
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ecocli.config.dataset import DatasetConfig
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import DataError
from ecocli.scoring.instance_truth import read_instance_truth


def write_instances(path: Path) -> None:
    """Write instances of COCO's three images of 6 x 8 pixels: polygons, plain and packed run lengths, a crowd."""
    packed = coco_mask.encode(np.asfortranarray(np.eye(6, 8, dtype=np.uint8)))
    shapes: list[tuple[int, int, Any, int]] = [
        (139, 1, [[0, 1, 4, 1, 4, 6, 0, 6], [5, 0, 8, 0, 8, 3]], 0),
        (139, 1, {"size": [6, 8], "counts": [12, 6, 30]}, 1),
        (9, 67, {"size": [6, 8], "counts": packed["counts"].decode()}, 0),
        (9, 90, [[2, 2, 6, 2, 6, 5, 2, 5]], 0),
        (77, 1, [[0, 0, 4, 0, 4, 4]], 0),
    ]
    annotations = [
        {"id": 10 + n, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": crowd, "area": 7.5}
        for n, (image, category, shape, crowd) in enumerate(shapes)
    ]
    images = [{"id": id_, "height": 6, "width": 8} for id_ in (77, 139, 9, 42)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1}]}))


@pytest.fixture
def dataset(tmp_path: Path) -> PanopticDataset:
    write_instances(write_coco(tmp_path) / "annotations" / "instances_val2017.json")
    return open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")


def test_read_instance_truth__every_form__has_the_masks_pycocotools_reads(dataset: PanopticDataset) -> None:
    truth = read_instance_truth(dataset)
    assert truth is not None
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(dataset.instance_file))
    # Images 9, 42, 139 in the data set's order; image 77 is none of its images.
    assert [len(image) for image in truth] == [2, 0, 2]
    for position, image_id in ((0, 9), (2, 139)):
        entries = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        for one, entry in zip(truth[position], entries, strict=True):
            code = coco.annToRLE(entry)["counts"]
            assert one.mask == {"size": [6, 8], "counts": code if isinstance(code, bytes) else code.encode()}
            assert dataset.categories[one.class_index].id == entry["category_id"]
            assert (one.is_crowd, one.area) == (entry["iscrowd"] == 1, 7.5)


def test_read_instance_truth__no_file__none(tmp_path: Path) -> None:
    write_coco(tmp_path)
    assert read_instance_truth(open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")) is None


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda c: c["images"].pop(), "lack 1 of 3 images of the val split of coco, the first is 42"),
        (lambda c: c["annotations"][0].update(category_id=199), r"other categories than coco \(KeyError: 199\)"),
        (lambda c: c["annotations"][0].pop("area"), r"\(KeyError: 'area'\)"),
        (lambda c: c["annotations"][0].update(segmentation=None), "do not have COCO's format"),
        (lambda c: c.pop("images"), r"\(KeyError: 'images'\)"),
    ],
)
def test_read_instance_truth__damaged__says_how(
    dataset: PanopticDataset, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    assert dataset.instance_file is not None
    edit_json(dataset.instance_file, damage)
    with pytest.raises(DataError, match=message):
        read_instance_truth(dataset)


def test_read_instance_truth__truncated__data_error(dataset: PanopticDataset) -> None:
    assert dataset.instance_file is not None
    dataset.instance_file.write_text("{")
    with pytest.raises(DataError, match=r"cannot be read .*AP is measured against them because they lie there"):
        read_instance_truth(dataset)
