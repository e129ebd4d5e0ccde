"""Panoptic quality once more by the official package, where it is installed.

panopticapi (cocodataset) is not on PyPI and therefore no dependency; the container image with CUDA has it.
"""

import contextlib
import importlib
import io
import json
from pathlib import Path


def official_pq(annotation_file: Path, png_folder: Path, predictions: Path, prediction_folder: Path) -> float:
    """Compute the data set's PQ with panopticapi.

    Args:
        annotation_file: Ground truth in COCO's panoptic format.
        png_folder: Its PNG files.
        predictions: Predictions in the same format.
        prediction_folder: Their PNG files.

    Returns:
        PQ over all classes, a fraction.
    """
    # It is no dependency: the caller makes sure that it is there.
    evaluation = importlib.import_module("panopticapi.evaluation")
    truth = json.loads(annotation_file.read_bytes())
    predicted = {entry["image_id"]: entry for entry in json.loads(predictions.read_bytes())["annotations"]}
    categories = {category["id"]: category for category in truth["categories"]}
    pairs = [(entry, predicted[entry["image_id"]]) for entry in truth["annotations"]]
    # It reports on stdout, which belongs to the commands. One process: the sum's last digits depend on the number.
    with contextlib.redirect_stdout(io.StringIO()):
        counts = evaluation.pq_compute_single_core(0, pairs, str(png_folder), str(prediction_folder), categories)
        average, _ = counts.pq_average(categories, isthing=None)
    return float(average["pq"])
