"""Recognises what a folder holds: COCO's panoptic format as it is read, or an export that is to be converted."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecocli.data.coco_file import ANNOTATION_LIMIT_BYTES
from ecocli.data.exports.instances import InstanceExport
from ecocli.data.exports.masks import MaskExport
from ecocli.data.photos import PHOTO_SUFFIXES
from ecocli.errors import DataError
from ecocli.runtime.formats import read_json

_DEEPEST = 3
_MOST_FOLDERS = 500
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_CLASS_FOLDERS = re.compile(r"segmentationclass|masks?|labels?|annotations?|segmentations?|gt|ground_?truth", re.I)
_OBJECT_FOLDERS = re.compile(r"segmentationobject|objects?|instances?", re.I)
_MASK_ENDING = re.compile(r"[_-](masks?|labels?|seg|gt)$", re.I)

LAYOUTS = (
    "COCO's panoptic format (a JSON file with segments_info, a folder of PNG files, a folder of images); COCO's "
    "instance format (a JSON file with polygons or run lengths, and images: CVAT's COCO, Label Studio's COCO, "
    "FiftyOne's COCODetectionDataset); class masks (a folder of photos and one of PNG files of the same names: CVAT's "
    "Segmentation mask, Pascal VOC, FiftyOne's ImageSegmentationDirectory)"
)
"""What is recognised, for messages."""


@dataclass(frozen=True)
class PanopticSplit:
    """A split that is read as it is.

    Attributes:
        name: ``train``, ``val`` or another.
        panoptic: Folder of the panoptic PNG files.
    """

    name: str
    images: Path
    annotations: Path
    panoptic: Path


@dataclass(frozen=True)
class _Folder:
    """A folder and its files, by name."""

    path: Path
    names: frozenset[str]

    @property
    def photos(self) -> dict[str, str]:
        """Pictures by their stem."""
        return {Path(name).stem: name for name in sorted(self.names) if Path(name).suffix.lower() in PHOTO_SUFFIXES}


def find_layout(
    folder: Path, images: Path | None = None, names: Mapping[str, str] | None = None
) -> list[PanopticSplit] | InstanceExport | MaskExport | None:
    """Recognise what a folder holds.

    Args:
        images: Folder of the photos, where they are elsewhere.
        names: Names of the values of class masks.

    Returns:
        Splits that are read as they are, an export that is to be converted, or None.

    Raises:
        DataError: The folder is none, or an annotation file lacks its images.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder. Name the folder that an annotation tool exported, extracted.")
    folders = list(_folders(folder))
    photos = list(_folders(images)) if images is not None else folders
    files = dict(_annotation_files(folders))
    panoptic = {path: content for path, content in files.items() if _first(content, "segments_info")}
    if panoptic:
        return [_panoptic_split(path, content, photos, folders) for path, content in panoptic.items()]
    instances = {path: content for path, content in files.items() if _first(content, "segmentation")}
    if instances:
        return _instances(instances, photos)
    return _masks(folders, photos, names or {})


def _folders(root: Path) -> Iterator[_Folder]:
    for count, (place, below, names) in enumerate(os.walk(root)):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if len(Path(place).relative_to(root).parts) >= _DEEPEST or count >= _MOST_FOLDERS:
            below.clear()
        yield _Folder(Path(place), frozenset(name for name in names if not name.startswith(".")))


def _annotation_files(folders: Iterable[_Folder]) -> Iterator[tuple[Path, Any]]:
    """Find JSON files that hold images and annotations."""
    for folder in folders:
        for name in sorted(folder.names):
            if not name.lower().endswith(".json"):
                continue
            try:
                content = read_json(folder.path / name, ANNOTATION_LIMIT_BYTES)
            except (OSError, ValueError):
                continue
            if isinstance(content, dict) and all(
                isinstance(content.get(key), list) for key in ("images", "annotations")
            ):
                yield folder.path / name, content


def _first(content: Mapping[str, Any], key: str) -> bool:
    """Tell whether annotations have a key."""
    return any(isinstance(entry, dict) and key in entry for entry in content["annotations"][:1])


def _split_of(path: Path) -> str:
    """Read the split off a file's name; empty where it names none."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "")


def _image_names(content: Mapping[str, Any]) -> list[str]:
    return [str(entry.get("file_name")) for entry in content["images"] if isinstance(entry, dict)]


def _panoptic_split(
    path: Path, content: Mapping[str, Any], photos: Sequence[_Folder], folders: Sequence[_Folder]
) -> PanopticSplit:
    maps = [str(entry.get("file_name")) for entry in content["annotations"][:1] if isinstance(entry, dict)]
    panoptic = _holder(folders, maps, path.stem) if maps else None
    others = [folder for folder in photos if panoptic is None or folder.path != panoptic.path]
    images = _holder(others, _image_names(content)[:1], _split_of(path))
    if panoptic is None or images is None:
        what, names = ("panoptic PNG file", maps) if panoptic is None else ("image", _image_names(content))
        raise DataError(
            f"The annotation file {path} names the {what} {next(iter(names), '(none)')}, which is in no folder beside "
            "it. Put the folders of images and PNG files beside it, or write the .toml file by hand."
        )
    return PanopticSplit(_split_of(path) or "train", images.path, path, panoptic.path)


def _holder(folders: Sequence[_Folder], names: Sequence[str], likely: str) -> _Folder | None:
    """Find the folder that holds all files of some names; one with a likely name goes first."""
    found = [folder for folder in folders if names and all(name in folder.names for name in names)]
    return next((folder for folder in found if likely and likely in folder.path.name), found[0] if found else None)


def _instances(files: Mapping[Path, Mapping[str, Any]], folders: Sequence[_Folder]) -> InstanceExport:
    splits = {_split_of(path): path for path in files}
    if len(splits) < len(files):
        raise DataError(
            f"The files {', '.join(str(path) for path in files)} cannot be told apart. Keep one, or call them after "
            "their splits, such as instances_train.json and instances_val.json."
        )
    if len(splits) == 1:
        splits = {"": next(iter(files))}
    root = _common([folder.path for folder in folders])
    # Exports name photos with folders of their own; what counts is the last part.
    places = {name: folder.path / name for folder in folders for name in folder.names}
    wanted = [name for content in files.values() for name in _image_names(content)]
    photos = {name: re.split(r"[/\\]", name)[-1] for name in wanted}
    missing = [name for name, last in photos.items() if last not in places]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(wanted)} photos of {next(iter(files))} are in no folder, the first is "
            f"{missing[0]}. Export with images, or name the folder of the photos with --images."
        )
    return InstanceExport(
        root, splits, {name: places[last].relative_to(root).as_posix() for name, last in photos.items()}
    )


def _common(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([str(path) for path in paths]))


def _masks(folders: Sequence[_Folder], photos: Sequence[_Folder], names: Mapping[str, str]) -> MaskExport | None:
    candidates = [(images, masks) for masks in folders for images in photos if _pairs(images, masks)]
    if not candidates:
        return None
    candidates.sort(key=lambda pair: (_CLASS_FOLDERS.fullmatch(pair[1].path.name) is None, -len(_pairs(*pair))))
    images, classes = candidates[0]
    objects = next(
        (masks for folder, masks in candidates if folder == images and _OBJECT_FOLDERS.fullmatch(masks.path.name)), None
    )
    labelmap = next((folder.path / "labelmap.txt" for folder in folders if "labelmap.txt" in folder.names), None)
    return MaskExport(
        images.path,
        _pairs(images, classes),
        {} if objects is None or objects == classes else _pairs(images, objects),
        labelmap,
        names,
        _listed_splits(folders),
    )


def _pairs(images: _Folder, masks: _Folder) -> dict[str, Path]:
    """Join photos and masks by their stems; empty where the second folder holds no masks of the first."""
    if (
        images.path == masks.path
        or _CLASS_FOLDERS.fullmatch(images.path.name)
        or _OBJECT_FOLDERS.fullmatch(images.path.name)
    ):
        return {}
    photos = images.photos
    found = {
        photos[stem]: masks.path / name
        for raw, name in masks.photos.items()
        if name.lower().endswith(".png") and (stem := raw if raw in photos else _MASK_ENDING.sub("", raw)) in photos
    }
    return found if 2 * len(found) >= len(masks.photos) else {}


def _listed_splits(folders: Sequence[_Folder]) -> dict[str, frozenset[str]]:
    """Read the lists of Pascal VOC, if they hold a train and a val split."""
    for folder in folders:
        if folder.path.parts[-2:] == ("ImageSets", "Segmentation") and {"train.txt", "val.txt"} <= folder.names:
            return {
                split: frozenset(
                    Path(line.strip()).name for line in (folder.path / f"{split}.txt").read_text().splitlines()
                )
                for split in ("train", "val")
            }
    return {}
