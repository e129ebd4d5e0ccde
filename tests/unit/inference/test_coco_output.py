"""Predictions in COCO's formats."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from ecocli.data.categories import Category
from ecocli.inference.coco_output import category_entries, category_map, instance_entries, segment_entries
from ecocli.inference.postprocess import Instances, PredictedSegment
from ecocli.metrics.instance import encode_masks

CATEGORIES = (
    Category(3, "car", "vehicle", True, (1, 2, 3)),
    Category(7, "sky", "ground", False, (4, 5, 6)),
)


def test_category_entries__as_in_annotation_files() -> None:
    assert category_entries(CATEGORIES)[1] == {
        "id": 7,
        "name": "sky",
        "supercategory": "ground",
        "isthing": 0,
        "color": [4, 5, 6],
    }


def test_segment_entries__hand_drawn_map__areas_and_boxes() -> None:
    panoptic_map = np.array([[0, 1, 1, 0], [2, 1, 0, 2]], np.int32)
    segments = (PredictedSegment(1, 0, 3, True, 3), PredictedSegment(2, 1, 7, False, 2))
    # Counted by hand; boxes are x, y, width, height.
    assert segment_entries(panoptic_map, segments) == [
        {"id": 1, "category_id": 3, "iscrowd": 0, "area": 3, "bbox": [1, 0, 2, 2]},
        {"id": 2, "category_id": 7, "iscrowd": 0, "area": 2, "bbox": [0, 1, 4, 1]},
    ]


# pycocotools' decoder is not yet written for NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_instance_entries__shared_and_empty_masks__rle_decodes_to_the_mask() -> None:
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    instances = Instances(
        class_index=torch.tensor([0, 1, 0]),
        score=torch.tensor([0.75, 0.5, 0.25]),
        mask_index=torch.tensor([0, 0, 1]),
        codes=tuple(encode_masks(masks.numpy())),
        size=(4, 5),
    )
    entries = instance_entries(4, instances, CATEGORIES)
    # The third one has an empty mask.
    assert [(e["image_id"], e["category_id"], e["score"]) for e in entries] == [(4, 3, 0.75), (4, 7, 0.5)]
    # pycocotools takes areas from boxes where results have them (COCO.loadRes): other APs than of the masks.
    assert all("bbox" not in entry for entry in entries)
    assert coco_mask.decode(entries[0]["segmentation"]).tolist() == masks[0].int().tolist()


def test_instance_entries__none__empty() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    nothing = Instances(none, torch.zeros(0), none, (), (4, 5))
    assert nothing.masks.shape == (0, 4, 5)
    assert instance_entries(1, nothing, CATEGORIES) == []


def test_category_map__ids__narrowest_type() -> None:
    class_map = np.array([[0, 1]], np.int32)
    small = category_map(class_map, CATEGORIES)
    assert (small.tolist(), small.dtype) == ([[3, 7]], np.uint8)
    wide = category_map(class_map, (CATEGORIES[0], Category(300, "x", "y", False, (0, 0, 0))))
    assert (wide.tolist(), wide.dtype) == ([[3, 300]], np.uint16)
