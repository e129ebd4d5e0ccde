"""Box AP once more by pycocotools, from the results that an evaluation wrote."""

import contextlib
import io
import json
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ecocli.data.boxes import DetectionDataset

# In the order of pycocotools' summary.
_VALUES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def official_box_quality(dataset: DetectionDataset, predictions: Path) -> dict[str, float | None]:
    """Score detections with pycocotools.

    Args:
        predictions: COCO's box results.

    Returns:
        The six APs as fractions; None where there is nothing to score.
    """
    annotations = [
        {"image_id": dataset.json_image_id(record), "category_id": id_, "bbox": box, "area": area, "iscrowd": crowd}
        for record in dataset.records
        for id_, box, area, crowd in zip(
            record.category_ids.tolist(),
            record.boxes.tolist(),
            record.areas.tolist(),
            record.is_crowd.astype(int).tolist(),
            strict=True,
        )
    ]
    truth, found = COCO(), COCO()
    truth.dataset = {
        "images": [{"id": dataset.json_image_id(record)} for record in dataset.records],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
        "categories": [{"id": category.id} for category in dataset.categories],
    }
    results = json.loads(predictions.read_bytes())
    # It reports on stdout, which belongs to the commands.
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # -1 is its word for nothing to score.
    return {
        name: None if value < 0 else float(value)
        for name, value in zip(_VALUES, evaluation.stats[: len(_VALUES)], strict=True)
    }
