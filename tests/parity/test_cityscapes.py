"""mIoU and AP by Cityscapes' rules: equal to cityscapesScripts on drawn street scenes.

Origin of the values: the package itself, run by ``record_cityscapes.py`` on the same scenes.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_cityscapes import DrawnImage, draw_set
from helpers_panoptic import Truth

from ecocli.data.categories import CITYSCAPES
from ecocli.metrics.instance import InstanceImage, ScoredInstance, encode_masks, true_instances
from ecocli.metrics.rules import RULES
from ecocli.metrics.semantic import IGNORED, count_confusion, semantic_truth

IDS = tuple(category.id for category in CITYSCAPES)
THINGS = tuple(category.is_thing for category in CITYSCAPES)
RECORDED = json.loads(Path(__file__).with_name("cityscapes_values.json").read_text())


def test_values__recorded__are_of_the_named_release_and_cover_the_cases() -> None:
    assert RECORDED["package"] == "cityscapesScripts 2.3.0"
    assert len(RECORDED["sets"]) == 12
    images = [image for one in RECORDED["sets"] for image in draw_set(one["seed"])]
    segments = [(image, segment) for image in images for segment in image.segments]
    areas = [(crowd, int((image.instance_ids == value).sum())) for image, (value, _, crowd) in segments]
    assert {(crowd, area < 100) for crowd, area in areas} == {(crowd, small) for crowd in (0, 1) for small in (0, 1)}
    assert any(iou == 0.0 for one in RECORDED["sets"] for iou in one["iou"].values())
    confidences = [score for image in images for _, _, score in image.predicted]
    assert len(set(confidences)) == 11


@pytest.mark.parametrize("recorded", RECORDED["sets"], ids=lambda one: str(one["seed"]))
def test_rules__drawn_streets__equal_the_package(recorded: dict[str, object]) -> None:
    images = draw_set(recorded["seed"])
    rules = RULES["cityscapes"]
    instances = rules.instance([instance_image(image) for image in images])
    assert instances.ap == pytest.approx(recorded["ap"], abs=1e-12)
    assert instances.ap50 == pytest.approx(recorded["ap50"], abs=1e-12)
    semantic = rules.semantic(confusion(images))
    assert semantic.miou == pytest.approx(recorded["miou"], abs=1e-12)
    names = [category.name for category in CITYSCAPES]
    assert [recorded["iou"].get(name) for name in names] == pytest.approx(list(semantic.per_class), abs=1e-12)
    assert recorded["iou"].keys() <= set(names)


def test_rules__coco_instead__give_other_values() -> None:
    # What the names are for: the same predictions, other numbers.
    differences = []
    for recorded in RECORDED["sets"]:
        images = draw_set(recorded["seed"])
        ap = RULES["coco"].instance([instance_image(image) for image in images]).ap
        miou = RULES["coco"].semantic(confusion(images)).miou
        differences.append((abs(ap - recorded["ap"]), miou - recorded["miou"]))
    ap, miou = np.array(differences).T
    assert ap.max() > 0.01
    assert miou.min() >= 0.0
    assert miou.max() > 0.03


def instance_image(image: DrawnImage) -> InstanceImage:
    """Bring an image into the form in which ``eval`` keeps it."""
    panoptic_map = image.panoptic_map
    truth = [Truth(value, label, crowd, 0) for value, label, crowd in image.segments]
    true = true_instances(panoptic_map, truth, IDS, THINGS)
    predicted = [
        ScoredInstance(IDS.index(label), encode_masks(mask[None])[0], confidence)
        for label, mask, confidence in image.predicted
    ]
    return InstanceImage(true, tuple(predicted), encode_masks((panoptic_map == 0)[None])[0])


def confusion(images: list[DrawnImage]) -> np.ndarray:
    """Sum the confusion of all images."""
    classes = {label: index for index, label in enumerate(IDS)}
    total = np.zeros((len(IDS), len(IDS)), np.int64)
    for image in images:
        truth = [Truth(value, label, crowd, 0) for value, label, crowd in image.segments]
        true = semantic_truth(image.panoptic_map, truth, IDS)
        predicted = np.vectorize(lambda label: classes.get(label, IGNORED))(image.labels)
        assert (predicted != IGNORED).all()
        total += count_confusion(predicted, true, len(IDS))
    return total
