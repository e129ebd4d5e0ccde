"""Objects as polygons or run lengths, in COCO's instance format: CVAT's "COCO", Label Studio's, FiftyOne's exports.

Axes: H W pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ecocli.data.coco_file import CocoFile
from ecocli.data.exports.regions import ExportedClass, Region
from ecocli.errors import DataError


@dataclass(frozen=True)
class InstanceExport:
    """Photos and one annotation file per split.

    Attributes:
        files: Annotation file of each split; one nameless split where there is but one file.
        photos: Name of each photo below the folder, by the name that the annotations give it.
    """

    image_root: Path
    files: Mapping[str, Path]
    photos: Mapping[str, str]
    has_objects: bool = True

    def splits(self) -> dict[str, tuple[str, ...]]:
        """Photos by split."""
        return {split: tuple(self._photo(name) for name in file.by_image) for split, file in self._read.items()}

    def classes(self) -> Sequence[ExportedClass]:
        """Classes of the files.

        Raises:
            DataError: Files have different ones.
        """
        found = [file.classes for file in self._read.values()]
        if any(classes != found[0] for classes in found):
            raise DataError(
                f"The files {', '.join(str(path) for path in self.files.values())} have different categories. Export "
                "all splits of one project."
            )
        return found[0]

    def regions(self, file_name: str, size: tuple[int, int]) -> Iterator[Region]:
        """Paint one photo, crowds first and large objects before small ones, so that small ones stay visible.

        Raises:
            DataError: A segmentation cannot be read.
        """
        for file in self._read.values():
            name = next((name for name in file.by_image if self._photo(name) == file_name), None)
            if name is not None:
                regions = [file.region(entry, size) for entry in file.by_image[name]]
                yield from sorted(regions, key=lambda region: (not region.is_crowd, -int(region.mask.sum())))
                return

    def _photo(self, name: str) -> str:
        return self.photos.get(name, name)

    @cached_property
    def _read(self) -> "dict[str, _InstanceFile]":
        return {split: _InstanceFile(path) for split, path in self.files.items()}


class _InstanceFile(CocoFile):
    """One annotation file.

    Attributes:
        classes: Its classes, in ascending id order.
        by_image: Annotations of each photo, by its name in the file.
    """

    format = "COCO's instance format"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        content = self.load()
        entries = [self.category_defaults(entry) for entry in content["categories"]]
        self.classes = tuple(ExportedClass(entry.id, entry.name) for entry in self.categories(entries))
        images = self.images(content["images"])
        known = {entry.id for entry in self.classes}
        grouped: dict[int | str, list[Mapping[str, Any]]] = {id_: [] for id_ in images}
        for entry in content["annotations"]:
            image = self.image_of(entry, images)
            if self.get(entry, "category_id", f"an annotation of image {image}", (int,)) not in known:
                raise self.fault(f"gives an annotation of image {image} the unknown category {entry['category_id']}")
            grouped[image].append(entry)
        self.by_image = {images[id_]["file_name"]: entries for id_, entries in grouped.items()}

    def category_defaults(self, entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "isthing": 1}

    def region(self, entry: Mapping[str, Any], size: tuple[int, int]) -> Region:
        """Paint one annotation."""
        where = f"annotation {entry.get('id')} of image {entry['image_id']}"
        drawn = self.get(entry, "segmentation", where, (list, dict))
        if not drawn:
            raise self.fault(
                f"has {where} without a segmentation: boxes alone are no masks. Draw polygons or masks, or train a "
                "detector (--arch detr-r50)"
            )
        return Region(entry["category_id"], self._mask(drawn, size, where), self.flag(entry, "iscrowd", where, 0))

    def _mask(self, drawn: Any, size: tuple[int, int], where: str) -> Bool[np.ndarray, "H W"]:
        try:
            return _paint_runs(drawn, size) if isinstance(drawn, dict) else _paint_polygons(drawn, size)
        except (ValueError, TypeError, KeyError) as error:
            raise self.fault(f"has {where} whose segmentation cannot be read ({error})") from error


def _paint_polygons(polygons: list[Any], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Paint polygons as pycocotools does: a list of x, y, x, y, .. each."""
    from pycocotools import mask as coco_mask

    for polygon in polygons:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2:
            raise ValueError(f"a polygon has {points.size} numbers, expected x, y of three points or more")
        # Far outside, painting would take the memory of the machine.
        if not (np.abs(points) <= 2.0 * max(size) + 16.0).all():
            raise ValueError("a polygon lies far outside the photo")
    runs = coco_mask.frPyObjects([[float(number) for number in polygon] for polygon in polygons], *size)
    return _paint_runs({"size": size, "counts": coco_mask.merge(runs)["counts"].decode()}, size)


def _paint_runs(drawn: dict[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Paint run lengths, column by column from a run of zeros on; as a list or as COCO's text."""
    if tuple(drawn["size"]) != size:
        raise ValueError(f"its size is {drawn['size']}, the photo's height and width are {list(size)}")
    counts = drawn["counts"]
    runs = np.asarray(_runs_of_text(counts) if isinstance(counts, str) else counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"its runs do not fill {size[0]} x {size[1]} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _runs_of_text(text: str) -> list[int]:
    """Read COCO's text of run lengths: numbers of 5 bits a character, from the third on less the one two before."""
    runs: list[int] = []
    value = shift = 0
    for character in text.encode("latin-1"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
