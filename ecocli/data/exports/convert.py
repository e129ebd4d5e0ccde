"""Writes an export as a data set of one's own: panoptic PNG files, a JSON file per split, and the TOML file.

Photos stay where they are. Axes: H W pixels.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ecocli.data.categories import palette_color
from ecocli.data.exports.layouts import PanopticSplit
from ecocli.data.exports.regions import Export, ExportedClass, Region
from ecocli.data.panoptic import encode_id_map
from ecocli.data.pictures import read_size
from ecocli.errors import DataError, UsageError
from ecocli.runtime.files import storage_errors

TOML_NAME = "data.toml"
_ELSEWHERE = "choose another folder"


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        toml: The file that names the data set.
        segments: Number of segments of each category, by name, over all splits.
        hidden: Number of regions that later ones cover whole; they have no segment.
    """

    toml: Path
    images: Mapping[str, int]
    segments: Mapping[str, int]
    things: tuple[str, ...]
    hidden: int


def convert(
    export: Export,
    out: Path,
    name: str,
    *,
    things: Collection[str] | None = None,
    stuff: Collection[str] = (),
    val_ratio: float = 0.2,
    advance: Callable[[int], None] | None = None,
) -> Converted:
    """Write an export in COCO's panoptic format.

    Args:
        things: Names of the classes whose objects are counted; None for all but ``stuff`` where the export tells
            objects apart, and none otherwise. Without objects, each connected piece is one.
        stuff: Names of classes that are not counted.
        val_ratio: Share of the images that becomes the split val, where the export has no splits.
        advance: Told the number of images just written.

    Raises:
        UsageError: A name is unknown, or the file system refuses.
        DataError: The export is faulty, or too small to be split.
    """
    classes = export.classes()
    counted = _counted(export, classes, things, stuff)
    splits = _splits(export, val_ratio)
    segments = dict.fromkeys((entry.name for entry in classes), 0)
    hidden = 0
    with storage_errors(out, _ELSEWHERE):
        (out / TOML_NAME).unlink(missing_ok=True)  # there is a data set only once all of it is written
        for split, names in splits.items():
            folder = out / f"panoptic_{split}"
            folder.mkdir(parents=True, exist_ok=True)
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for number, file_name in enumerate(names, 1):
                size = read_size(export.image_root / file_name, "image")
                id_map, infos, covered = paint(export, file_name, size, counted)
                hidden += covered
                for info in infos:
                    segments[next(entry.name for entry in classes if entry.id == info["category_id"])] += 1
                stem = Path(file_name).with_suffix("").as_posix().replace("/", "_")
                encode_id_map(id_map).save(folder / f"{stem}.png")
                images.append({"id": number, "file_name": file_name, "height": size[0], "width": size[1]})
                annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": infos})
                if advance is not None:
                    advance(1)
            categories = [_category(entry, entry.id in counted) for entry in classes]
            content = {"images": images, "annotations": annotations, "categories": categories}
            (out / f"panoptic_{split}.json").write_text(json.dumps(content) + "\n")
        written = [
            PanopticSplit(split, export.image_root, out / f"panoptic_{split}.json", out / f"panoptic_{split}")
            for split in splits
        ]
        (out / TOML_NAME).write_text(describe(name, written, out))
    named = tuple(entry.name for entry in classes if entry.id in counted)
    return Converted(out / TOML_NAME, {split: len(names) for split, names in splits.items()}, segments, named, hidden)


def describe(name: str, splits: Sequence[PanopticSplit], base: Path) -> str:
    """Write the TOML file of a data set that lies in COCO's panoptic format.

    Args:
        base: Folder that the file is to be put into: paths are relative to it.
    """
    lines = [f"name = {json.dumps(name)}"]
    for split in splits:
        lines.append(f"[splits.{split.name}]")
        for key in ("images", "annotations", "panoptic"):
            path = os.path.relpath(getattr(split, key).resolve(), base.resolve())
            lines.append(f"{key} = {json.dumps(Path(path).as_posix())}")
    return "\n".join(lines) + "\n"


def paint(
    export: Export, file_name: str, size: tuple[int, int], counted: Collection[int]
) -> tuple[np.ndarray, list[dict[str, Any]], int]:
    """Paint the id map of an image.

    Args:
        counted: Ids of the classes that are things.

    Returns:
        The id map [H, W], its segments as COCO's panoptic format lists them, and the number of regions that later
        ones cover whole.
    """
    id_map = np.zeros(size, np.int32)
    painted: dict[int, Region] = {}
    stuff_ids: dict[int, int] = {}
    for region in export.regions(file_name, size):
        pieces = _pieces(region) if region.class_id in counted and not export.has_objects else [region]
        for piece in pieces:
            id_ = len(painted) + 1
            if region.class_id not in counted:  # one segment of a class and image
                id_ = stuff_ids.setdefault(region.class_id, id_)
            painted.setdefault(id_, piece)
            id_map[piece.mask] = id_
    infos = []
    for id_, place in enumerate(ndimage.find_objects(id_map, max_label=len(painted)), 1):
        if place is None:
            continue
        rows, columns = place
        infos.append(
            {
                "id": id_,
                "category_id": painted[id_].class_id,
                "iscrowd": int(painted[id_].is_crowd),
                "area": int((id_map[place] == id_).sum()),
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
            }
        )
    return id_map, infos, len(painted) - len(infos)


def _pieces(region: Region) -> list[Region]:
    """Take a class mask apart into connected pieces, corners included."""
    labels, count = ndimage.label(region.mask, np.ones((3, 3)))
    return [Region(region.class_id, labels == number) for number in range(1, count + 1)]


def _counted(
    export: Export, classes: Sequence[ExportedClass], things: Collection[str] | None, stuff: Collection[str]
) -> set[int]:
    known = [entry.name for entry in classes]
    unknown = [name for name in (*(things or ()), *stuff) if name not in known]
    if unknown:
        raise UsageError(f"There is no class {unknown[0]!r} in the export. It has {', '.join(known)}.")
    if things is None:
        things = [name for name in known if name not in stuff] if export.has_objects else []
    return {entry.id for entry in classes if entry.name in things}


def _splits(export: Export, val_ratio: float) -> dict[str, tuple[str, ...]]:
    """Take the splits of the export; where it has none, draw them by the names of the images, the same every time."""
    found = export.splits()
    if {"train", "val"} <= found.keys() and all(found.values()):
        return found
    images = sorted(name for names in found.values() for name in names)
    if len(images) < 2:
        raise DataError(f"The export has {len(images)} images with annotations, expected two or more: train and val.")
    drawn = sorted(images, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = min(max(round(val_ratio * len(images)), 1), len(images) - 1)
    return {"train": tuple(sorted(drawn[count:])), "val": tuple(sorted(drawn[:count]))}


def _category(entry: ExportedClass, is_thing: bool) -> dict[str, Any]:
    color = entry.color or palette_color(entry.id, is_thing)
    return {"id": entry.id, "name": entry.name, "isthing": int(is_thing), "color": list(color)}
