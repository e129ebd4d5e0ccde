"""What the classes of published weights are.

``data/published_classes.csv`` has ADE20K's and Mapillary Vistas' classes as Mask2Former's source registers them
(``mask2former/data/datasets`` at 9b0651c, MIT): those data sets cannot be opened here, their models can be used.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from ecocli.config.dataset import DATASET_PRESETS, ResizeConfig
from ecocli.data.annotations import read_annotations
from ecocli.data.boxes import read_instances
from ecocli.data.categories import CITYSCAPES, COCO, SHAPES, Category
from ecocli.data.detection import class_indices
from ecocli.errors import DataError, UsageError

_TABLES: Mapping[str, tuple[Category, ...]] = {"coco": COCO, "cityscapes": CITYSCAPES, "shapes": SHAPES}
_CLASSES_FILE = Path(__file__).parents[1] / "data" / "published_classes.csv"
# A class count tells the published data set; the drawn one is never guessed.
_BY_COUNT: Mapping[int, str] = {
    133: "coco",
    80: "coco-things",
    19: "cityscapes",
    8: "cityscapes-things",
    150: "ade20k",
    100: "ade20k-things",
    65: "mapillary",
}
_THINGS = "-things"
# Test sizes of Mask2Former's configurations, of panoptic segmentation where they differ.
_RESIZE: Mapping[str, ResizeConfig] = {
    "ade20k": ResizeConfig(short_edge_px=640, long_edge_px=2560),
    "mapillary": ResizeConfig(short_edge_px=2048, long_edge_px=2048),
}
# Labels such as LABEL_0 or "class 0" say nothing.
_EMPTY_LABELS = ("LABEL_", "class ")
_SHOWN = 5


def box_categories(said: str | None, num_classes: int) -> tuple[tuple[Category, ...], ResizeConfig]:
    """Categories of a detector, whose classes are their ranks or COCO's raw ids."""
    table = _table("coco-things") if said in (None, "coco") else read_instances(Path(str(said))).categories
    try:
        class_indices(table, num_classes)
    except DataError as error:
        raise UsageError(
            f"{error} Say what the classes are with --categories and an instance annotation file."
        ) from error
    return table, ResizeConfig(**DATASET_PRESETS["coco"]["test_resize"])


def panoptic_categories(
    said: str | None, num_classes: int, labels: Sequence[str]
) -> tuple[tuple[Category, ...], ResizeConfig]:
    """Categories of a segmentation, whose classes are their ranks."""
    name = _BY_COUNT.get(num_classes) if said is None else said
    if name is None:
        raise UsageError(
            f"The model has {num_classes} classes, which is no number of a known data set "
            f"({', '.join(f'{known}: {count}' for count, known in _BY_COUNT.items())}). Say what they are with "
            "--categories and a panoptic annotation file."
        )
    table = _table(name) or read_annotations(Path(name)).categories
    if len(table) != num_classes:
        raise UsageError(f"{name} has {len(table)} categories, but the model has {num_classes} classes.")
    told = [label for label in labels if not label.startswith(_EMPTY_LABELS)]
    known = {category.name.lower() for category in table}
    # Spelling differs a little between releases; a table of something else has hardly a name in common.
    if said is None and told and sum(label.lower() in known for label in told) < len(told) / 2:
        shown = ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")
        raise UsageError(
            f"The model has {num_classes} classes like {name}, but calls them {shown}. Say what they are with "
            f"--categories: {name}, or a panoptic annotation file."
        )
    base = name.removesuffix(_THINGS)
    preset = DATASET_PRESETS.get(base, DATASET_PRESETS["coco"])
    return table, _RESIZE.get(base) or ResizeConfig(**preset.get("test_resize", {}))


def _table(name: str) -> tuple[Category, ...]:
    """A known table, or the things of one; empty where the name is none."""
    base = name.removesuffix(_THINGS)
    whole = _TABLES.get(base) or _read_classes(base)
    return whole if base == name else tuple(category for category in whole if category.is_thing)


def _read_classes(name: str) -> tuple[Category, ...]:
    with _CLASSES_FILE.open(newline="", encoding="utf-8") as file:
        return tuple(
            Category(
                int(row["id"]),
                row["name"],
                row["supercategory"],
                row["is_thing"] == "1",
                (*bytes.fromhex(row["color"]),),
            )
            for row in csv.DictReader(file)
            if row["data_set"] == name
        )
