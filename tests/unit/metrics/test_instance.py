"""Mask AP: hand-worked cases and equality with pycocotools used in its ordinary way, through JSON files."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers_panoptic import Truth
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ecocli.metrics.instance import (
    InstanceImage,
    ScoredInstance,
    TrueInstance,
    encode_masks,
    instance_quality,
    true_instances,
)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 50), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def image_of(true: list[tuple[int, np.ndarray, bool]], predicted: list[tuple[int, np.ndarray, float]]) -> InstanceImage:
    return InstanceImage(
        tuple(TrueInstance(k, encode_masks(m[None])[0], crowd) for k, m, crowd in true),
        tuple(ScoredInstance(k, encode_masks(m[None])[0], score) for k, m, score in predicted),
    )


def test_instance_quality__perfect_prediction__is_one() -> None:
    image = image_of([(0, box(0, 0, 10, 10), False)], [(0, box(0, 0, 10, 10), 0.9)])
    quality = instance_quality([image, image])
    assert quality.ap == pytest.approx(1.0)
    assert quality.ap_small == pytest.approx(1.0)
    assert quality.ap_large is None


def test_instance_quality__iou_of_six_tenths__counts_at_the_three_lowest_thresholds() -> None:
    # By hand: IoU 60 / 100 passes 0.5, 0.55 and 0.6 of ten thresholds.
    quality = instance_quality([image_of([(2, box(0, 0, 10, 10), False)], [(2, box(0, 0, 6, 10), 0.9)])])
    assert quality.ap == pytest.approx(0.3)
    assert (quality.ap50, quality.ap75) == (pytest.approx(1.0), 0.0)


def test_instance_quality__prediction_on_a_crowd__is_neither_right_nor_wrong() -> None:
    true = [(0, box(0, 0, 10, 10), False), (0, box(20, 20, 20, 20), True)]
    hit = (0, box(0, 0, 10, 10), 0.5)
    on_crowd = (0, box(22, 22, 5, 5), 0.9)
    assert instance_quality([image_of(true, [on_crowd, hit])]).ap == pytest.approx(1.0)
    # The same prediction without the crowd is a better-scored mistake: precision one half.
    assert instance_quality([image_of(true[:1], [on_crowd, hit])]).ap == pytest.approx(0.5)


def test_instance_quality__nothing_predicted__is_zero() -> None:
    assert instance_quality([image_of([(0, box(0, 0, 10, 10), False)], [])]).ap == 0.0


@pytest.mark.parametrize("true", [[], [(0, box(0, 0, 10, 10), True)]])
def test_instance_quality__no_instance_but_crowds__is_none(true: list[tuple[int, np.ndarray, bool]]) -> None:
    assert instance_quality([image_of(true, [(0, box(0, 0, 10, 10), 0.9)])]).ap is None


def test_instance_quality__pycocotools_chatter__stays_off_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    instance_quality([image_of([(0, box(0, 0, 10, 10), False)], [(0, box(0, 0, 10, 10), 0.9)])])
    assert capfd.readouterr().out == ""


def test_instance_quality__random_scenes__equals_pycocotools_on_files(tmp_path: Path) -> None:
    # Origin: pycocotools run as its documentation shows, from a JSON file and a result list.
    rng = np.random.default_rng(0)

    def random_box() -> np.ndarray:
        return box(*rng.integers(0, 25, 2), *rng.integers(3, 20, 2))

    images = []
    for _ in range(6):
        true = [(int(rng.integers(3)), random_box(), bool(rng.random() < 0.2)) for _ in range(5)]
        near = [(k, np.roll(m, rng.integers(-2, 3), axis=1), float(rng.random())) for k, m, _ in true]
        images.append(image_of(true, [*near, (0, random_box(), float(rng.random()))]))
    truth, results = [], []
    for image_id, image in enumerate(images, start=1):
        for instance in image.true:
            code = {**instance.mask, "counts": instance.mask["counts"].decode()}
            truth.append({"id": len(truth) + 1, "image_id": image_id, "category_id": instance.class_index + 1})
            truth[-1] |= {"segmentation": code, "iscrowd": int(instance.is_crowd)}
            truth[-1]["area"] = float(coco_mask.area(instance.mask))
        for scored in image.predicted:
            results.append({"image_id": image_id, "category_id": scored.class_index + 1, "score": scored.score})
            results[-1]["segmentation"] = scored.mask
    file = tmp_path / "truth.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": i, "height": 40, "width": 50} for i in range(1, 7)],
                "annotations": truth,
                "categories": [{"id": i} for i in (1, 2, 3)],
            }
        )
    )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    quality = instance_quality(images)
    assert 0.1 < evaluation.stats[0] < 1.0
    assert (quality.ap, quality.ap50, quality.ap75, quality.ap_small) == tuple(evaluation.stats[:4])


def test_true_instances__stuff_and_crowd__keeps_things_and_says_crowd() -> None:
    true_map = np.array([[4, 4, 8, 9]], np.int32)
    segments = [Truth(4, 11, False, 2), Truth(8, 12, False, 1), Truth(9, 11, True, 1)]
    found = true_instances(true_map, segments, (11, 12), (True, False))
    assert [(t.class_index, t.is_crowd) for t in found] == [(0, False), (0, True)]
    # Left, top, width, height.
    assert coco_mask.toBbox(found[0].mask).tolist() == [0, 0, 2, 1]
