"""Panoptic quality once more by the official package, where it is installed.

panopticapi (cocodataset) is not on PyPI and therefore no dependency; the container image with CUDA has it.
"""

import contextlib
import importlib
import io
import json
from pathlib import Path

from ecocli.data.panoptic import PanopticDataset


def official_quality(dataset: PanopticDataset, predictions: Path, prediction_folder: Path) -> dict[str, float | None]:
    """Score predictions with panopticapi.

    The order of a sum decides its last digits, and panopticapi's depends on the number of cores. Here its counts of
    each image are added in the order of the data set, by its own addition: then equal rules give equal bits.

    Args:
        predictions: Predictions in COCO's panoptic format.
        prediction_folder: Their PNG files.

    Returns:
        ``pq``, ``sq``, ``rq`` over all classes, ``pq_things`` and ``pq_stuff``, as fractions; None where no class has
        anything to score.
    """
    # It is no dependency: the caller makes sure that it is there.
    evaluation = importlib.import_module("panopticapi.evaluation")
    truth = json.loads(dataset.annotation_file.read_bytes())
    true_entries = {str(entry["image_id"]): entry for entry in truth["annotations"]}
    found_entries = {str(entry["image_id"]): entry for entry in json.loads(predictions.read_bytes())["annotations"]}
    categories = {category["id"]: category for category in truth["categories"]}
    # In ascending order of ids, as the averages go through the classes.
    categories = {id_: categories[id_] for id_ in sorted(categories)}
    folders = str(dataset.panoptic_root), str(prediction_folder)
    counts = evaluation.PQStat()
    # It reports on stdout, which belongs to the commands.
    with contextlib.redirect_stdout(io.StringIO()):
        for image_id in dataset.records.image_ids:
            pair = (true_entries[image_id], found_entries[image_id])
            counts += evaluation.pq_compute_single_core(0, [pair], *folders, categories)
    averages = {}
    for name, is_thing in (("", None), ("_things", True), ("_stuff", False)):
        try:
            averages[name] = counts.pq_average(categories, isthing=is_thing)[0]
        except ZeroDivisionError:
            averages[name] = {}
    return {
        key: None if value is None else float(value)
        for key, value in (
            *((key, averages[""].get(key)) for key in ("pq", "sq", "rq")),
            *((f"pq{kind}", averages[kind].get("pq")) for kind in ("_things", "_stuff")),
        )
    }
