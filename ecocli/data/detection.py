"""Opens detection data sets: COCO's instance files, a user's own, and the things of panoptic data sets as boxes.

``shapes`` and Cityscapes have panoptic annotations only: their things are the boxes, so the scenes and the truth are
those of segmentation. A data set of the user's needs nothing but images and an instance file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ecocli.config.dataset import DatasetConfig
from ecocli.data.annotations import read_annotations
from ecocli.data.boxes import BoxAnnotations, DetectionDataset, boxes_of_things, read_instances
from ecocli.data.categories import Category
from ecocli.data.datasets import (
    check_file_names,
    coco_images,
    custom_path,
    data_root,
    describe_custom,
    first_existing,
    locate_panoptic,
    require_split,
)
from ecocli.errors import DataError
from ecocli.runtime.files import user_path


def open_detection(
    config: DatasetConfig,
    split: str,
    *,
    advance: Callable[[int], None] | None = None,
    check_files: bool = True,
) -> DetectionDataset:
    """Open one split; the ``shapes`` are generated when they are not there yet.

    Args:
        split: ``train`` or ``val``, or a name from the user's TOML file.
        advance: Told the number of images just drawn while ``shapes`` is generated.
        check_files: Look whether every annotated file is there, by listing the folders.

    Raises:
        UsageError: No data set or split has this name.
        DataError: Files are missing, or annotations are faulty.
    """
    require_split(config, split)
    found = _instances(config, split)
    if found is None:
        name, file, images, content = _things(config, split, advance)
    else:
        name, file, images = found
        content = read_instances(file)
    if check_files:
        check_file_names(images, content.records.file_names, f"{name} images")
    return DetectionDataset(
        name=name,
        split=split,
        categories=content.categories,
        records=content.records,
        image_root=images,
        annotation_file=file,
        has_number_ids=content.has_number_ids,
    )


def has_panoptic(config: DatasetConfig, split: str) -> bool:
    """Whether a split is described by panoptic annotations; all but those of a user's own that name none."""
    require_split(config, split)
    if not config.name.endswith(".toml"):
        return True
    return describe_custom(user_path(config.name)).splits[split].annotations is not None


def _instances(config: DatasetConfig, split: str) -> tuple[str, Path, Path] | None:
    """Name, instance file and image folder of a split; None where only panoptic annotations describe it."""
    if config.name == "coco":
        root, year_split = data_root(config), f"{split}2017"
        bases = (root / "coco", root)
        file = first_existing(
            [base / "annotations" / f"instances_{year_split}.json" for base in bases],
            "COCO's file of instance annotations",
            "Download annotations_trainval2017.zip from cocodataset.org, or name the folder that holds coco/ with "
            "--data-root or ECO_DATASETS.",
        )
        return "coco", file, coco_images(file.parent.parent, year_split)
    if config.name.endswith(".toml"):
        path = user_path(config.name)
        description = describe_custom(path)
        named = description.splits[split]
        if named.instances is None:
            return None
        file = custom_path(path, split, named.instances, "The file of instance annotations")
        return description.name, file, custom_path(path, split, named.images, "The image folder")
    return None


def _things(
    config: DatasetConfig, split: str, advance: Callable[[int], None] | None
) -> tuple[str, Path, Path, BoxAnnotations]:
    place = locate_panoptic(config, split, advance)
    annotations = read_annotations(place.annotations)
    if place.image_name is not None:
        annotations.records.file_names = [place.image_name(record) for record in annotations.records]
    things = tuple(category for category in annotations.categories if category.is_thing)
    if not things:
        raise DataError(
            f"The panoptic annotations {place.annotations} have no things, so there are no boxes to find. Name a "
            f"file of instance annotations in [splits.{split}] of the data set's TOML file."
        )
    boxes = boxes_of_things(annotations.records, things)
    return place.name, place.annotations, place.images, BoxAnnotations(things, boxes, annotations.has_number_ids)


def class_indices(categories: Sequence[Category], num_classes: int) -> dict[int, int]:
    """Give the class index of every category id in a model of a number of classes.

    A class is the rank of its category. The published DETRs have one class per number up to COCO's largest category
    id, gaps included: there it is the id itself. Where both fit they are the same.

    Raises:
        DataError: The model has another number of classes than either.
    """
    ids = [category.id for category in categories]
    if num_classes == len(ids):
        return {id_: rank for rank, id_ in enumerate(ids)}
    if num_classes == max(ids) + 1:
        return {id_: id_ for id_ in ids}
    raise DataError(
        f"The model has {num_classes} classes, but the data set has {len(ids)} categories with ids up to {max(ids)}: "
        f"expected {len(ids)} classes, one for each category, or {max(ids) + 1}, one for each id. Train with "
        f"--set architecture.num_classes={len(ids)}."
    )
