"""Reads annotation files in COCO's panoptic format: categories, images, segments."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecocli.data.categories import Category
from ecocli.data.coco_file import CocoFile
from ecocli.data.panoptic import ImageRecord, RecordTable, Segment

MAX_SEGMENT_ID = 256**3 - 1


@dataclass(frozen=True)
class Annotations:
    """Content of one annotation file.

    Attributes:
        categories: In ascending id order.
        records: In ascending order of image ids.
        has_number_ids: True where image ids are numbers in the file.
    """

    categories: tuple[Category, ...]
    records: RecordTable
    has_number_ids: bool


def read_annotations(path: Path) -> Annotations:
    """Read an annotation file.

    Raises:
        DataError: The file is missing, is no JSON, lacks a part of the format, or contradicts itself.
    """
    return _Reader(path).read()


class _Reader(CocoFile):
    """Reads one file."""

    def read(self) -> Annotations:
        content = self.load()
        first = next((entry for entry in content["annotations"] if isinstance(entry, dict)), {})
        if first and "segments_info" not in first:
            raise self.fault(
                "has annotations without 'segments_info', so it holds instances, not panoptic segments; "
                "the panoptic file is usually called panoptic_<split>.json"
            )
        categories = self.categories(content["categories"])
        images = self.images(content["images"])
        annotations: dict[int | str, Mapping[str, Any]] = {}
        for entry in content["annotations"]:
            id_ = self.image_of(entry, images)
            if id_ in annotations:
                raise self.fault(f"has two annotations of image {id_}, expected one with all its segments")
            annotations[id_] = entry
        lacking = [id_ for id_ in images if id_ not in annotations]
        if lacking:
            raise self.fault(f"has no annotation for {len(lacking)} of its images, the first is {lacking[0]}")
        numbers = all(isinstance(id_, int) for id_ in images)
        order = sorted(images, key=None if numbers else str)
        known = {category.id for category in categories}
        records = RecordTable(self._record(images[id_], annotations[id_], known) for id_ in order)
        return Annotations(categories, records, numbers)

    def _record(self, image: Mapping[str, Any], annotation: Mapping[str, Any], known: set[int]) -> ImageRecord:
        id_ = image["id"]
        name = self.get(annotation, "file_name", f"the annotation of image {id_}", (str,))
        segments = tuple(self._segments(annotation, id_, known))
        if len({segment.id for segment in segments}) < len(segments):
            raise self.fault(f"has a segment id twice in image {id_}; ids must be unique within an image")
        return ImageRecord(str(id_), image["file_name"], name, image["height"], image["width"], segments)

    def _segments(self, annotation: Mapping[str, Any], image_id: int | str, known: set[int]) -> Iterator[Segment]:
        for entry in self.get(annotation, "segments_info", f"the annotation of image {image_id}", (list,)):
            id_ = self.get(entry, "id", f"a segment of image {image_id}", (int,))
            where = f"segment {id_} of image {image_id}"
            category = self.get(entry, "category_id", where, (int,))
            if category not in known:
                raise self.fault(f"gives {where} the unknown category {category}")
            if not 0 < id_ <= MAX_SEGMENT_ID:
                raise self.fault(f"has {where}, but ids run from 1 to {MAX_SEGMENT_ID}, since 0 means unlabelled")
            box = self.get(entry, "bbox", where, (list,))
            if len(box) != 4:
                raise self.fault(f"gives {where} a bbox of {len(box)} numbers, expected x, y, width, height")
            left, top, width, height = (self._pixels(value, "bbox", where) for value in box)
            yield Segment(
                id_,
                category,
                self.flag(entry, "iscrowd", where, 0),
                self._pixels(self.get(entry, "area", where, (int, float)), "area", where),
                (left, top, width, height),
            )

    def _pixels(self, value: Any, key: str, where: str) -> int:
        return round(self.number(value, key, where))
