"""Mask AP of instances through pycocotools.

Axes: K classes (rank of the category), M masks, H W pixels. Source: COCO's official evaluation, run on objects in
memory. As in Mask2Former's evaluation of a panoptic-trained model, only things count, up to 100 instances per image.
The truth is either that of COCO's separate instance files, which Mask2Former uses and whose masks may overlap, or every
thing segment of the panoptic map, crowds as crowds; the two give slightly other values.
"""

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ecocli.metrics.panoptic_quality import TrueLike
from ecocli.metrics.results import AveragePrecisions

Rle = dict[str, Any]
"""Run-length code of a mask as pycocotools has it: ``size`` and ``counts``."""


@dataclass(frozen=True)
class TrueInstance:
    """One thing of the ground truth; its area is the mask's where the annotation does not state another."""

    class_index: int
    mask: Rle
    is_crowd: bool
    area: float | None = None


@dataclass(frozen=True)
class ScoredInstance:
    """One predicted instance."""

    class_index: int
    mask: Rle
    score: float


@dataclass(frozen=True)
class InstanceImage:
    """The true and the predicted instances of one image.

    Attributes:
        void: Unlabelled pixels; None where there are none, or nobody asks.
    """

    true: tuple[TrueInstance, ...]
    predicted: tuple[ScoredInstance, ...]
    void: Rle | None = None


def encode_masks(masks: Bool[np.ndarray, "M H W"]) -> list[Rle]:
    """Run-length encode masks."""
    if masks.shape[0] == 0:
        return []
    # pycocotools wants column-major [H, W, M].
    codes: list[Rle] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return codes


def decode_masks(codes: Sequence[Rle], size: tuple[int, int]) -> Bool[np.ndarray, "M H W"]:
    """Turn run-length codes of masks of one size back into masks."""
    with warnings.catch_warnings():
        # pycocotools' decoder is not yet written for NumPy 2.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        masks = [coco_mask.decode(code).astype(bool) for code in codes]
    return np.stack(masks) if masks else np.zeros((0, *size), bool)


def true_instances(
    true_map: Int32[np.ndarray, "H W"],
    true_segments: Sequence[TrueLike],
    category_ids: Sequence[int],
    is_thing: Sequence[bool],
) -> tuple[TrueInstance, ...]:
    """Cut the things out of a panoptic annotation."""
    class_of = {category_id: index for index, category_id in enumerate(category_ids)}
    things = [segment for segment in true_segments if is_thing[class_of[segment.category_id]]]
    return tuple(
        TrueInstance(class_of[segment.category_id], encode_masks((true_map == segment.id)[None])[0], segment.is_crowd)
        for segment in things
    )


def instance_quality(images: Sequence[InstanceImage]) -> AveragePrecisions:
    """Score a data set; the order of the images decides between equal scores."""
    if not any(not instance.is_crowd for image in images for instance in image.true):
        return AveragePrecisions(None, None, None, None, None, None)
    # pycocotools reports on stdout, which belongs to the commands.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _coco([[_true_entry(i) for i in image.true] for image in images]),
            _coco([[_scored_entry(i) for i in image.predicted] for image in images]),
            "segm",
        )
        evaluation.params.catIds = sorted({i.class_index + 1 for image in images for i in image.true})
        evaluation.params.imgIds = list(range(1, len(images) + 1))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # -1 is pycocotools' word for "nothing to score".
    values = [float(value) if value >= 0 else None for value in evaluation.stats[:6]]
    return AveragePrecisions(*values)


def _true_entry(instance: TrueInstance) -> dict[str, object]:
    return {
        "category_id": instance.class_index + 1,
        "segmentation": instance.mask,
        "area": float(coco_mask.area(instance.mask)) if instance.area is None else instance.area,
        "iscrowd": int(instance.is_crowd),
    }


def _scored_entry(instance: ScoredInstance) -> dict[str, object]:
    return {
        "category_id": instance.class_index + 1,
        "segmentation": instance.mask,
        "area": float(coco_mask.area(instance.mask)),
        "score": instance.score,
        "iscrowd": 0,
    }


def _coco(entries: Sequence[Sequence[dict[str, object]]]) -> COCO:
    """Build pycocotools' data set from the entries of each image; ids count from 1, as 0 means "no match" there."""
    annotations = [
        {**entry, "image_id": image_id} for image_id, image in enumerate(entries, start=1) for entry in image
    ]
    for annotation_id, annotation in enumerate(annotations, start=1):
        annotation["id"] = annotation_id
    coco = COCO()
    coco.dataset = {
        # Sizes are asked for where masks are polygons; here run-length codes carry them.
        "images": [{"id": image_id, "height": 0, "width": 0} for image_id in range(1, len(entries) + 1)],
        "annotations": annotations,
        "categories": [{"id": category} for category in sorted({int(str(a["category_id"])) for a in annotations})],
    }
    coco.createIndex()
    return coco
