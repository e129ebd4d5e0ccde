"""Predictions of images in COCO's formats: panoptic annotations, instance and box results.

Axes: H W pixels. Source: https://cocodataset.org/#format-results.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt16
from scipy import ndimage

from ecocli.data.categories import Category
from ecocli.inference.postprocess import Instances, PredictedSegment


def category_entries(categories: Sequence[Category]) -> list[dict[str, object]]:
    """Categories as a panoptic annotation file lists them."""
    return [
        {
            "id": category.id,
            "name": category.name,
            "supercategory": category.supercategory,
            "isthing": int(category.is_thing),
            "color": list(category.color),
        }
        for category in categories
    ]


def segment_entries(
    panoptic_map: Int32[np.ndarray, "H W"], segments: Sequence[PredictedSegment]
) -> list[dict[str, object]]:
    """The ``segments_info`` of an image: id, category, area and box (x, y, width, height, in pixels)."""
    boxes = ndimage.find_objects(panoptic_map)
    entries: list[dict[str, object]] = []
    for segment in segments:
        rows, columns = boxes[segment.id - 1]
        box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        entries.append(
            {
                "id": segment.id,
                "category_id": segment.category_id,
                "iscrowd": 0,
                "area": segment.area,
                "bbox": box,
            }
        )
    return entries


def instance_entries(image_id: int, instances: Instances, categories: Sequence[Category]) -> list[dict[str, object]]:
    """Instance results of an image, best first, masks as compressed RLE; empty masks are left out.

    Without boxes: where there is one, pycocotools takes it for the area of the mask.
    """
    from pycocotools import mask as coco_mask

    encoded = list(instances.codes)
    areas = coco_mask.area(encoded).tolist() if encoded else []
    entries: list[dict[str, object]] = []
    columns = (instances.class_index.tolist(), instances.score.tolist(), instances.mask_index.tolist())
    for class_index, score, mask_index in zip(*columns, strict=True):
        if areas[mask_index] == 0:
            continue
        rle = encoded[mask_index]
        entries.append(
            {
                "image_id": image_id,
                "category_id": categories[class_index].id,
                "score": score,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
        )
    return entries


def category_map(
    class_map: Int32[np.ndarray, "H W"], categories: Sequence[Category]
) -> UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]:
    """Category id of every pixel from its class index, in the narrowest of 8 and 16 bits."""
    ids = np.array([category.id for category in categories])
    narrow: UInt8[np.ndarray, " K"] | UInt16[np.ndarray, " K"]
    narrow = ids.astype(np.uint8) if ids.max() < 256 else ids.astype(np.uint16)
    picked: UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"] = narrow[class_map]
    return picked


def detection_entries(
    image_ids: Sequence[int | str],
    category_ids: Sequence[int],
    scores: Float32[np.ndarray, " D"],
    boxes: Float32[np.ndarray, "D 4"],
) -> list[dict[str, Any]]:
    """Detections as COCO's box results; boxes are left, top, width, height in pixels."""
    columns = (image_ids, category_ids, boxes.astype(np.float64).tolist(), scores.astype(np.float64).tolist())
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for image_id, category_id, box, score in zip(*columns, strict=True)
    ]
