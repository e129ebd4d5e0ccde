"""What the classes of published weights are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ecocli.config.dataset import DATASET_PRESETS, ResizeConfig
from ecocli.data.annotations import read_annotations
from ecocli.data.boxes import read_instances
from ecocli.data.categories import CITYSCAPES, COCO, SHAPES, Category
from ecocli.data.detection import class_indices
from ecocli.errors import DataError, UsageError

_TABLES: Mapping[str, tuple[Category, ...]] = {
    "coco": COCO,
    "coco-things": tuple(category for category in COCO if category.is_thing),
    "cityscapes": CITYSCAPES,
    "cityscapes-things": tuple(category for category in CITYSCAPES if category.is_thing),
    "shapes": SHAPES,
}
# A class count tells the published data set; the drawn one is never guessed.
_BY_COUNT = {len(_TABLES[name]): name for name in ("coco", "coco-things", "cityscapes", "cityscapes-things")}
# Labels such as LABEL_0 or "class 0" say nothing.
_EMPTY_LABELS = ("LABEL_", "class ")
_SHOWN = 5


def box_categories(said: str | None, num_classes: int) -> tuple[tuple[Category, ...], ResizeConfig]:
    """Categories of a detector, whose classes are their ranks or COCO's raw ids."""
    table = _TABLES["coco-things"] if said in (None, "coco") else read_instances(Path(str(said))).categories
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
            f"The model has {num_classes} classes, neither COCO's {len(COCO)} nor Cityscapes' {len(CITYSCAPES)} nor "
            "the things among them. Say what they are with --categories and a panoptic annotation file."
        )
    table = _TABLES[name] if name in _TABLES else read_annotations(Path(name)).categories
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
    preset = DATASET_PRESETS.get(name.removesuffix("-things"), DATASET_PRESETS["coco"])
    return table, ResizeConfig(**preset.get("test_resize", {}))
