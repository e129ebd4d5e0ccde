"""Random detections and true boxes, pycocotools' evaluation of them, and a data set that a model nearly agrees with."""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ecocli.config.dataset import DatasetConfig
from ecocli.data.detection import class_indices, open_detection
from ecocli.inference.coco_output import category_entries
from ecocli.inference.predictor import predict_exits
from ecocli.metrics.box_matching import TrueBoxes, match_detections, positives
from ecocli.metrics.detection import DetectionTable
from ecocli.model.contracts import ExitModel
from ecocli.scoring.batches import load_batch

CLASSES = 4


@dataclass(frozen=True)
class Found:
    """Detections of one image at one exit, before matching."""

    class_index: NDArray[np.int64]
    score: NDArray[np.float32]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class Scenes:
    """Images with true boxes, and detections at every exit."""

    truths: tuple[TrueBoxes, ...]
    found: tuple[tuple[Found, ...], ...]


def random_scenes(seed: int, images: int = 12, exits: int = 3, most: int = 30, ties: bool = True) -> Scenes:
    """Images of none to a dozen boxes, crowds among them, of all sizes; detections near them, many of equal score."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(images):
        number = int(rng.integers(0, 12))
        corner, size = rng.uniform(0, 200, (number, 2)), np.exp(rng.uniform(1.5, 5.2, (number, 2)))
        boxes = np.concatenate((corner, size), 1).round(2)
        area = size.prod(1) * rng.uniform(0.4, 1.0, number)
        truths.append(TrueBoxes(rng.integers(0, CLASSES - 1, number), boxes, area, rng.random(number) < 0.15))
        per_exit = []
        for _ in range(exits):
            count = int(rng.integers(0, most))
            near = rng.random(count) < (0.8 if number else 0.0)
            place = rng.integers(0, max(number, 1), count)
            own = np.concatenate((rng.uniform(0, 200, (count, 2)), np.exp(rng.uniform(1.5, 5.2, (count, 2)))), 1)
            if number:
                wobbled = boxes[place] * rng.normal(1, 0.06, (count, 4)).clip(0.7, 1.3)
                own = np.where(near[:, None], wobbled, own)
                labels = np.where(near, truths[-1].class_index[place], rng.integers(0, CLASSES, count))
            else:
                labels = rng.integers(0, CLASSES, count)
            scores = rng.integers(1, 20, count) / 20 if ties else rng.random(count)
            per_exit.append(Found(labels, scores.astype(np.float32), own.astype(np.float32)))
        found.append(tuple(per_exit))
    return Scenes(tuple(truths), tuple(found))


def table_of(scenes: Scenes) -> DetectionTable:
    """The table of the scenes."""
    rows = [
        (image, exit_index, match_detections(f.class_index, f.score, f.boxes, truth))
        for image, (truth, exits) in enumerate(zip(scenes.truths, scenes.found, strict=True))
        for exit_index, f in enumerate(exits)
    ]
    counts = np.stack([positives(truth, CLASSES) for truth in scenes.truths])
    true_image, true_class = np.nonzero(counts.any(axis=2))

    def join(values: Sequence[NDArray[Any]], kind: type) -> NDArray[Any]:
        return np.concatenate(values).astype(kind)

    return DetectionTable(
        num_images=len(scenes.truths),
        num_exits=len(scenes.found[0]),
        num_classes=CLASSES,
        image=join([np.full(len(m.score), image) for image, _, m in rows], np.int64),
        exit_index=join([np.full(len(m.score), exit_index) for _, exit_index, m in rows], np.int64),
        class_index=join([m.class_index for _, _, m in rows], np.int64),
        score=join([m.score for _, _, m in rows], np.float64),
        matched=join([m.matched for _, _, m in rows], np.uint16),
        ignored=join([m.ignored for _, _, m in rows], np.uint16),
        true_image=true_image,
        true_class=true_class,
        true_counts=counts[true_image, true_class],
    )


def official_stats(truths: Sequence[TrueBoxes], found: Sequence[Found], classes: int = CLASSES) -> list[float]:
    """AP, AP50, AP75, APs, APm, APl by pycocotools; -1 where it has none."""
    true = [
        {
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": box.tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for image, t in enumerate(truths, start=1)
        for label, box, area, crowd in zip(t.class_index, t.boxes, t.area, t.is_crowd, strict=True)
    ]
    for number, entry in enumerate(true, start=1):
        entry["id"] = number
    results = [
        {"image_id": image, "category_id": int(label) + 1, "bbox": box.tolist(), "score": float(score)}
        for image, f in enumerate(found, start=1)
        for label, score, box in zip(f.class_index, f.score, f.boxes.astype(np.float64), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(1, len(truths) + 1)],
            "annotations": true,
            "categories": [{"id": label + 1} for label in range(classes)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results) if results else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


def make_own_boxes(source: DatasetConfig, model: ExitModel, exits: Sequence[int], folder: Path) -> DatasetConfig:
    """Write the splits of a drawn data set anew: the boxes of image n are near what exit n mod E of a model predicts.

    So the exits differ in AP, and no exit's is zero.
    """
    folder.mkdir()
    rng, toml = np.random.default_rng(0), ['name = "own"']
    for split in ("train", "val"):
        dataset = open_detection(source, split)
        ids = {index: id_ for id_, index in class_indices(dataset.categories, model.num_classes).items()}
        annotations: list[dict[str, Any]] = []
        for position, record in enumerate(dataset.records):
            batch = load_batch(dataset, [position], source.test_resize, model, "cpu", lambda *_: None).images
            features = model.extract(batch.images, batch.image_sizes)
            found = list(predict_exits(model, features, batch, exits))[position % len(exits)][0].detections()
            for place in rng.choice(len(found.score), 4, replace=False):
                box = (found.boxes[place] * rng.normal(1, 0.04, 4)).tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": int(record.image_id),
                        "category_id": ids[int(found.class_index[place])],
                        "bbox": box,
                        "area": 0.9 * box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        images = [
            {"id": int(r.image_id), "file_name": r.file_name, "height": r.height, "width": r.width}
            for r in dataset.records
        ]
        content = {"images": images, "annotations": annotations, "categories": category_entries(dataset.categories)}
        (folder / f"{split}.json").write_text(json.dumps(content))
        toml.append(f'[splits.{split}]\nimages = "{dataset.image_root}"\ninstances = "{split}.json"')
    (folder / "own.toml").write_text("\n".join(toml))
    resize = source.test_resize.model_dump()
    return DatasetConfig.model_validate({"name": str(folder / "own.toml"), "test_resize": resize})
