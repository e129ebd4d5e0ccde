"""Detection data sets: images with boxes, from COCO's instance files or from the things of panoptic files.

Axes: G boxes of an image. COCO's boxes and areas are fractions of pixels. A crowd is one box around a group of objects
that are not told apart: it is no target of training, and detections inside it count for nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ecocli.data.categories import COCO, Category
from ecocli.data.coco_file import CocoFile
from ecocli.data.images import ImageDataset
from ecocli.data.panoptic import RecordTable


@dataclass(frozen=True, slots=True)
class BoxRecord:
    """One image with its boxes.

    Attributes:
        image_id: Id as text, also where the annotation file has a number.
        file_name: Image file, relative to the image folder of the split.
        boxes: Left, top, width, height, in pixels.
        areas: Area of each object's mask, or of its box, as annotated, in square pixels.
        is_crowd: Whether it stands for a group.
    """

    image_id: str
    file_name: str
    height: int
    width: int
    category_ids: Int64[np.ndarray, " G"]
    boxes: Float64[np.ndarray, "G 4"]
    areas: Float64[np.ndarray, " G"]
    is_crowd: Bool[np.ndarray, " G"]


class BoxTable:
    """Records of images with boxes, kept as columns."""

    def __init__(self, records: Iterable[BoxRecord]) -> None:
        kept = list(records)
        self.image_ids = [record.image_id for record in kept]
        self.file_names = [record.file_name for record in kept]
        self._sizes = np.array([(record.height, record.width) for record in kept], np.int32).reshape(-1, 2)
        self._starts = np.cumsum([0, *(len(record.category_ids) for record in kept)])
        self._columns = tuple(
            np.concatenate([getattr(record, name) for record in kept] or [empty])
            for name, empty in (
                ("category_ids", np.zeros(0, np.int64)),
                ("boxes", np.zeros((0, 4))),
                ("areas", np.zeros(0)),
                ("is_crowd", np.zeros(0, bool)),
            )
        )

    def __len__(self) -> int:
        """Count the images."""
        return len(self.image_ids)

    def __getitem__(self, index: int, /) -> BoxRecord:
        """Make one record."""
        position = range(len(self))[index]
        own = slice(self._starts[position], self._starts[position + 1])
        categories, boxes, areas, crowds = (column[own] for column in self._columns)
        height, width = self._sizes[position].tolist()
        return BoxRecord(
            self.image_ids[position], self.file_names[position], height, width, categories, boxes, areas, crowds
        )

    def __iter__(self) -> Iterator[BoxRecord]:
        """Go through the images."""
        return (self[index] for index in range(len(self)))

    def take(self, indices: Sequence[int]) -> "BoxTable":
        """The records of some images, in the order given."""
        return BoxTable(self[index] for index in indices)


@dataclass(frozen=True)
class DetectionDataset(ImageDataset):
    """One split with boxes."""

    records: BoxTable


def boxes_of_things(records: RecordTable, categories: Sequence[Category]) -> BoxTable:
    """Take the things of panoptic annotations as boxes: the same scenes, the same truth."""
    things = {category.id for category in categories if category.is_thing}

    def record_of(index: int) -> BoxRecord:
        record = records[index]
        segments = [segment for segment in record.segments if segment.category_id in things]
        return BoxRecord(
            record.image_id,
            record.file_name,
            record.height,
            record.width,
            np.array([segment.category_id for segment in segments], np.int64),
            np.array([segment.bbox for segment in segments], np.float64).reshape(-1, 4),
            np.array([segment.area for segment in segments], np.float64),
            np.array([segment.is_crowd for segment in segments], bool),
        )

    return BoxTable(record_of(index) for index in range(len(records)))


@dataclass(frozen=True)
class BoxAnnotations:
    """Content of one instance file.

    Attributes:
        categories: In ascending id order.
        records: In ascending order of image ids; images without any box are among them.
        has_number_ids: True where image ids are numbers in the file.
    """

    categories: tuple[Category, ...]
    records: BoxTable
    has_number_ids: bool


def read_instances(path: Path) -> BoxAnnotations:
    """Read boxes from an annotation file in COCO's instance format; masks in it are not looked at.

    Raises:
        DataError: The file is missing, is no JSON, lacks a part of the format, or contradicts itself.
    """
    return _InstanceReader(path).read()


class _InstanceReader(CocoFile):
    """Reads one file."""

    format = "COCO's instance format"

    def read(self) -> BoxAnnotations:
        content = self.load()
        if any("segments_info" in entry for entry in content["annotations"][:1] if isinstance(entry, dict)):
            raise self.fault(
                "has annotations with 'segments_info', so it holds panoptic segments, not instances; the instance "
                "file is usually called instances_<split>.json"
            )
        categories = self.categories(content["categories"])
        images = self.images(content["images"])
        known = {category.id for category in categories}
        rows: dict[int | str, list[tuple[int, list[float], float, bool]]] = {id_: [] for id_ in images}
        for entry in content["annotations"]:
            id_ = self.get(entry, "image_id", "an annotation", (int, str))
            if id_ not in images:
                raise self.fault(f"has an annotation of image {id_}, which is not among its images")
            rows[id_].append(self._row(entry, f"an annotation of image {id_}", known))
        numbers = all(isinstance(id_, int) for id_ in images)
        records = BoxTable(self._record(images[id_], rows[id_]) for id_ in sorted(images, key=None if numbers else str))
        return BoxAnnotations(categories, records, numbers)

    def category_defaults(self, entry: dict[str, Any]) -> dict[str, Any]:
        # Instance files name neither kind nor colour; COCO's own colours are known.
        known = {category.id: list(category.color) for category in COCO}
        id_ = entry.get("id")
        return {"isthing": 1, "color": known.get(id_) if isinstance(id_, int) else None, **entry}

    def _row(self, entry: Any, where: str, known: set[int]) -> tuple[int, list[float], float, bool]:
        category = self.get(entry, "category_id", where, (int,))
        if category not in known:
            raise self.fault(f"gives {where} the unknown category {category}")
        box = self.get(entry, "bbox", where, (list,))
        if len(box) != 4:
            raise self.fault(f"gives {where} a bbox of {len(box)} numbers, expected x, y, width, height")
        sides = [self.number(value, "bbox", where) for value in box]
        if sides[2] < 0 or sides[3] < 0:
            raise self.fault(f"gives {where} the bbox {box}, whose width or height is negative")
        area = entry.get("area", sides[2] * sides[3])
        return category, sides, self.number(area, "area", where), self.flag(entry, "iscrowd", where, 0)

    def _record(self, image: Any, rows: list[tuple[int, list[float], float, bool]]) -> BoxRecord:
        return BoxRecord(
            str(image["id"]),
            image["file_name"],
            image["height"],
            image["width"],
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.float64).reshape(-1, 4),
            np.array([row[2] for row in rows], np.float64),
            np.array([row[3] for row in rows], bool),
        )
