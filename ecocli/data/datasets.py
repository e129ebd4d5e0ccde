"""Opens data sets in the layouts found on users' disks.

COCO: PNG folders beside or inside ``annotations/``, images beside it or inside ``images/``. Cityscapes: flat panoptic
folders with and without train ids; images are found by id, because the file names in its JSON do not exist. Others:
a TOML file names the folders. Sources: detectron2's, mmdetection's and DETR's documented folder trees, and
cityscapesScripts' ``createPanopticImgs``.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ecocli.config.dataset import DATASET_PRESETS, CustomDataset, DatasetConfig
from ecocli.config.loading import load_toml, resolve_config
from ecocli.data.annotations import read_annotations
from ecocli.data.categories import CITYSCAPES, CITYSCAPES_TRAIN_IDS, COCO, SHAPES, Category
from ecocli.data.images import ImageDataset
from ecocli.data.near_names import near_name
from ecocli.data.panoptic import ImageRecord, PanopticDataset
from ecocli.data.shapes.files import ensure_shapes
from ecocli.errors import DataError, UsageError
from ecocli.runtime.files import user_path


@dataclass(frozen=True)
class PanopticPlace:
    """Where a split lies and what is expected there.

    Attributes:
        panoptic: Folder of the panoptic PNG files.
        categories: The categories the file must have, if they are known.
        image_name: Names the image file of a record, where the annotation file cannot be trusted.
        instances: COCO's instance annotations, where there are any.
    """

    name: str
    annotations: Path
    panoptic: Path
    images: Path
    categories: tuple[Category, ...] | None = None
    image_name: Callable[[ImageRecord], str] | None = None
    instances: Path | None = None


def data_root(config: DatasetConfig) -> Path:
    """Give the folder that holds the data sets: the configured one, else ``datasets`` in the working directory."""
    return user_path(config.root or "datasets")


class NotDrawnError(DataError):
    """The drawn scenes are wanted and not there yet, and are not to be drawn now."""


def require_drawn(config: DatasetConfig) -> None:
    """Make sure that opening the data set would draw nothing.

    Raises:
        NotDrawnError: It would draw the ``shapes``.
    """
    if config.name == "shapes" and not (data_root(config) / "shapes").exists():
        raise NotDrawnError("The shapes are not drawn yet: what would be reused is known once they are.")


def open_dataset(
    config: DatasetConfig,
    split: str,
    *,
    advance: Callable[[int], None] | None = None,
    check_files: bool = True,
) -> PanopticDataset:
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
    place = locate_panoptic(config, split, advance)
    annotations = read_annotations(place.annotations)
    if place.categories is not None:
        _check_categories(place.annotations, annotations.categories, place.categories)
    records = annotations.records
    if place.image_name is not None:
        records.file_names = [place.image_name(record) for record in records]
    if check_files:
        check_file_names(place.images, records.file_names, f"{place.name} images")
        check_file_names(place.panoptic, records.panoptic_names, f"{place.name} panoptic PNG files")
    return PanopticDataset(
        name=place.name,
        split=split,
        categories=annotations.categories,
        records=records,
        image_root=place.images,
        annotation_file=place.annotations,
        has_number_ids=annotations.has_number_ids,
        panoptic_root=place.panoptic,
        instance_file=place.instances,
    )


def require_split(config: DatasetConfig, split: str) -> None:
    """Make sure that a data set has a split of that name, without looking at its files.

    Raises:
        UsageError: It has none, or there is no such data set.
        DataError: The user's TOML file is missing.
    """
    if split not in split_names(config):
        known = ", ".join(split_names(config))
        raise UsageError(
            f"The data set {config.name} has no split {split!r}; it has {known}. A data set of your own gets one more "
            f"by a table [splits.{split}] with images, annotations and panoptic in its .toml file."
        )


def split_names(config: DatasetConfig) -> tuple[str, ...]:
    """List the splits of a data set, without looking at its files.

    Raises:
        UsageError: No data set has this name.
        DataError: The user's TOML file is missing.
    """
    name = config.name
    if name.endswith(".toml"):
        return tuple(describe_custom(user_path(name)).splits)
    if name not in DATASET_PRESETS:
        near = difflib.get_close_matches(name, DATASET_PRESETS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(DATASET_PRESETS))}."
        raise UsageError(
            f"There is no data set {name!r}. {hint} A data set of your own is named by the path of a .toml file."
        )
    return ("train", "val")


def locate_panoptic(config: DatasetConfig, split: str, advance: Callable[[int], None] | None) -> PanopticPlace:
    """Find the panoptic annotations of a split; the ``shapes`` are generated when they are not there yet.

    Raises:
        DataError: A file or folder is missing.
    """
    root = data_root(config)
    if config.name == "shapes":
        return _locate_shapes(ensure_shapes(root, config.drawn, advance=advance), split)
    if config.name == "coco":
        return _locate_coco(root, split)
    if config.name == "cityscapes":
        return _locate_cityscapes(root, split)
    return _locate_custom(user_path(config.name), split)


def _locate_shapes(folder: Path, split: str) -> PanopticPlace:
    annotations = folder / "annotations" / f"panoptic_{split}.json"
    return PanopticPlace("shapes", annotations, folder / f"panoptic_{split}", folder / split, SHAPES)


def _locate_coco(root: Path, split: str) -> PanopticPlace:
    year_split = f"{split}2017"
    bases = (root / "coco", root)
    annotations = first_existing(
        [base / "annotations" / f"panoptic_{year_split}.json" for base in bases],
        "COCO's panoptic annotation file",
        "Download panoptic_annotations_trainval2017.zip from cocodataset.org, or name the folder that holds coco/ "
        "with --data-root or ECO_DATASETS.",
    )
    base = annotations.parent.parent
    archives = [folder / f"panoptic_{year_split}.zip" for folder in (base / "annotations", base)]
    inner = next((archive for archive in archives if archive.is_file()), None)
    panoptic = first_existing(
        [base / f"panoptic_{year_split}", base / "annotations" / f"panoptic_{year_split}"],
        "COCO's folder of panoptic PNG files",
        f"The inner archive {inner} is not extracted yet: unzip it where it lies."
        if inner is not None
        else "It comes as an inner archive of panoptic_annotations_trainval2017.zip: unzip that too.",
    )
    images = coco_images(base, year_split)
    instances = annotations.with_name(f"instances_{year_split}.json")
    return PanopticPlace(
        "coco", annotations, panoptic, images, COCO, instances=instances if instances.is_file() else None
    )


def coco_images(base: Path, year_split: str) -> Path:
    """Find COCO's image folder beside its annotations.

    Raises:
        DataError: It is missing.
    """
    return first_existing(
        [base / year_split, base / "images" / year_split],
        "COCO's image folder",
        f"Download {year_split}.zip from cocodataset.org and extract it beside annotations/.",
    )


def _locate_cityscapes(root: Path, split: str) -> PanopticPlace:
    bases = (root / "cityscapes", root)
    hint = (
        "Make it with cityscapesScripts: CITYSCAPES_DATASET=/path/to/cityscapes python -m "
        "cityscapesscripts.preparation.createPanopticImgs"
    )
    # The version without train ids is Mask2Former's; where both exist, it goes first.
    stems = [f"cityscapes_panoptic_{split}", f"cityscapes_panoptic_{split}_trainId"]
    found = [folder / f"{stem}.json" for stem in stems for base in bases for folder in (base / "gtFine", base)]
    annotations = first_existing(found, "Cityscapes' panoptic annotation file", hint)
    panoptic = first_existing([annotations.with_suffix("")], "Cityscapes' folder of panoptic PNG files", hint)
    parent = annotations.parent
    images = first_existing(
        [folder / "leftImg8bit" / split for folder in (parent, parent.parent)],
        "Cityscapes' image folder",
        "Extract leftImg8bit_trainvaltest.zip beside gtFine/.",
    )
    expected = CITYSCAPES_TRAIN_IDS if annotations.stem.endswith("_trainId") else CITYSCAPES
    return PanopticPlace("cityscapes", annotations, panoptic, images, expected, _cityscapes_image)


def _cityscapes_image(record: ImageRecord) -> str:
    """Name the image of a record; ``images[].file_name`` of the JSON names a file that does not exist."""
    city = record.image_id.split("_")[0]
    return f"{city}/{record.image_id}_leftImg8bit.png"


def describe_custom(path: Path) -> CustomDataset:
    """Read the TOML file of a user's own data set.

    Raises:
        DataError: It is missing.
    """
    if not path.is_file():
        raise DataError(
            f"The data set file {path} is missing; relative paths start at the working directory. Name with --dataset "
            "a TOML file that names the folders."
        )
    return resolve_config(CustomDataset, load_toml(path))


def _locate_custom(path: Path, split: str) -> PanopticPlace:
    description = describe_custom(path)
    named = description.splits[split]
    if named.annotations is None or named.panoptic is None:
        raise DataError(
            f"[splits.{split}] of {path} names no panoptic annotations, which segmentation needs. Give both "
            "'annotations' (JSON file) and 'panoptic' (folder of PNG files), or choose a detector with --arch."
        )
    return PanopticPlace(
        description.name,
        custom_path(path, split, named.annotations, "The annotation file"),
        custom_path(path, split, named.panoptic, "The folder of panoptic PNG files"),
        custom_path(path, split, named.images, "The image folder"),
        instances=None
        if named.instances is None
        else custom_path(path, split, named.instances, "The file of instance annotations"),
    )


def custom_path(file: Path, split: str, named: str, what: str) -> Path:
    """Find what the TOML file of a user's own data set names for a split.

    Raises:
        DataError: It is missing.
    """
    hint = f"Correct the path in [splits.{split}] of {file}; paths are relative to that file."
    return first_existing([file.parent / user_path(named)], what, hint)


def first_existing(candidates: Sequence[Path], what: str, hint: str) -> Path:
    """Choose the first path that exists.

    Raises:
        DataError: None of them does.
    """
    for candidate in candidates:
        if candidate.exists():
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise DataError(f"{what[0].upper()}{what[1:]} was not found; tried {tried}. {hint}")


def _check_categories(path: Path, found: tuple[Category, ...], expected: tuple[Category, ...]) -> None:
    """Refuse a known data set with other categories: class indices of trained models would be wrong."""
    wanted = [(category.id, category.name, category.is_thing) for category in expected]
    given = [(category.id, category.name, category.is_thing) for category in found]
    if given != wanted:
        odd = [row for row in given if row not in wanted] or [row for row in wanted if row not in given]
        id_, name, _ = odd[0]
        raise DataError(
            f"The annotation file {path} has {len(given)} categories that differ from the expected {len(wanted)}, "
            f"first at id {id_} ({name}). Use the original file, or describe a data set of your own in a .toml file."
        )


def check_file_names(folder: Path, names: Iterable[str], what: str) -> None:
    """Compare the wanted names with listings of the folders: a few calls, not one per file.

    Raises:
        DataError: One is missing.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    count = 0
    for name in names:
        count += 1
        parent, _, base = name.rpartition("/")
        if parent not in listings:
            listings[parent] = _list_folder(folder / parent)
        if base not in listings[parent]:
            missing.append(name)
    if missing:
        near = near_name(folder, missing[0])
        advice = (
            f"{near} Rename the files, or correct the names in the annotations."
            if near
            else "An archive was probably not extracted fully: extract it again."
        )
        raise DataError(
            f"{len(missing)} of {count} {what} are missing in {folder}, the first is {missing[0]}. {advice}"
        )


def _list_folder(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names alone, a hundred thousand of them
    except OSError:
        return set()


DatasetT = TypeVar("DatasetT", bound=ImageDataset)


def take(dataset: DatasetT, indices: Sequence[int]) -> DatasetT:
    """Restrict a data set to some of its images; the fingerprint then covers those alone."""
    return replace(dataset, records=dataset.records.take(indices))
