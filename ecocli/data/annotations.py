"""Reads annotation files in COCO's panoptic format: categories, images, segments.

Images and annotations are joined by image id, never by position. Every fault names the file, the place within it and
what was expected, because such files come from many converters.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecocli.data.categories import Category
from ecocli.data.panoptic import ImageRecord, RecordTable, Segment
from ecocli.errors import DataError

MAX_SEGMENT_ID = 256**3 - 1
_MAX_NUMBER = 2**31 - 1
"""Records hold 32-bit numbers."""


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


class _Reader:
    """Reads one file; knows its path for the error messages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Annotations:
        content = self._load()
        categories = self._categories(content["categories"])
        images = self._images(content["images"])
        annotations: dict[int | str, Mapping[str, Any]] = {}
        for entry in content["annotations"]:
            id_ = self._get(entry, "image_id", "an annotation", (int, str))
            if id_ not in images:
                raise self._fault(f"has an annotation of image {id_}, which is not among its images")
            if id_ in annotations:
                raise self._fault(f"has two annotations of image {id_}, expected one with all its segments")
            annotations[id_] = entry
        lacking = [id_ for id_ in images if id_ not in annotations]
        if lacking:
            raise self._fault(f"has no annotation for {len(lacking)} of its images, the first is {lacking[0]}")
        numbers = all(isinstance(id_, int) for id_ in images)
        order = sorted(images, key=None if numbers else str)
        known = {category.id for category in categories}
        records = RecordTable(self._record(images[id_], annotations[id_], known) for id_ in order)
        return Annotations(categories, records, numbers)

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"The annotation file {self.path} is missing.") from error
        except OSError as error:
            raise DataError(f"The annotation file {self.path} cannot be read ({error.strerror}).") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(
                f"The annotation file {self.path} is not valid JSON ({error}); it may be truncated. "
                "Extract or download it again."
            ) from error
        for key in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise self._fault(f"has no list {key!r}")
        first = next((entry for entry in content["annotations"] if isinstance(entry, dict)), {})
        if first and "segments_info" not in first:
            raise self._fault(
                "has annotations without 'segments_info', so it holds instances, not panoptic segments; "
                "the panoptic file is usually called panoptic_<split>.json"
            )
        return dict(content)

    def _categories(self, entries: list[Any]) -> tuple[Category, ...]:
        categories = {}
        for entry in entries:
            id_ = self._get(entry, "id", "a category", (int,))
            where = f"category {id_}"
            if id_ in categories:
                raise self._fault(f"has category id {id_} twice")
            if not 0 <= id_ <= _MAX_NUMBER:
                raise self._fault(f"has the category id {id_}, but ids run from 0 to {_MAX_NUMBER}")
            categories[id_] = Category(
                id_,
                self._get(entry, "name", where, (str,)),
                str(entry.get("supercategory", "")),
                bool(self._get(entry, "isthing", where, (int,))),
                self._color(entry.get("color") or (0, 0, 0), where),
            )
        if not categories:
            raise self._fault("has no categories")
        return tuple(categories[id_] for id_ in sorted(categories))

    def _color(self, color: Any, where: str) -> tuple[int, int, int]:
        parts = color if isinstance(color, list | tuple) else ()
        if len(parts) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
            raise self._fault(f"gives {where} the color {color!r}, expected three numbers from 0 to 255")
        red, green, blue = parts
        return red, green, blue

    def _images(self, entries: list[Any]) -> dict[int | str, Mapping[str, Any]]:
        images: dict[int | str, Mapping[str, Any]] = {}
        for entry in entries:
            id_ = self._get(entry, "id", "an image", (int, str))
            for key, kind in (("file_name", str), ("height", int), ("width", int)):
                value = self._get(entry, key, f"image {id_}", (kind,))
                if kind is int and not 0 < value <= _MAX_NUMBER:
                    raise self._fault(f"gives image {id_} the {key} {value}, expected a positive number of pixels")
            if id_ in images:
                raise self._fault(f"has image id {id_} twice")
            images[id_] = entry
        if not images:
            raise self._fault("has no images")
        return images

    def _record(self, image: Mapping[str, Any], annotation: Mapping[str, Any], known: set[int]) -> ImageRecord:
        id_ = image["id"]
        name = self._get(annotation, "file_name", f"the annotation of image {id_}", (str,))
        segments = tuple(self._segments(annotation, id_, known))
        if len({segment.id for segment in segments}) < len(segments):
            raise self._fault(f"has a segment id twice in image {id_}; ids must be unique within an image")
        return ImageRecord(str(id_), image["file_name"], name, image["height"], image["width"], segments)

    def _segments(self, annotation: Mapping[str, Any], image_id: int | str, known: set[int]) -> Iterator[Segment]:
        for entry in self._get(annotation, "segments_info", f"the annotation of image {image_id}", (list,)):
            id_ = self._get(entry, "id", f"a segment of image {image_id}", (int,))
            where = f"segment {id_} of image {image_id}"
            category = self._get(entry, "category_id", where, (int,))
            if category not in known:
                raise self._fault(f"gives {where} the unknown category {category}")
            if not 0 < id_ <= MAX_SEGMENT_ID:
                raise self._fault(f"has {where}, but ids run from 1 to {MAX_SEGMENT_ID}, since 0 means unlabelled")
            box = self._get(entry, "bbox", where, (list,))
            if len(box) != 4:
                raise self._fault(f"gives {where} a bbox of {len(box)} numbers, expected x, y, width, height")
            left, top, width, height = (self._pixels(value, "bbox", where) for value in box)
            yield Segment(
                id_,
                category,
                bool(entry.get("iscrowd", 0)),
                self._pixels(self._get(entry, "area", where, (int, float)), "area", where),
                (left, top, width, height),
            )

    def _pixels(self, value: Any, key: str, where: str) -> int:
        # A number that is none, which JSON files of Python's may hold, is not within the bounds either.
        if not isinstance(value, int | float) or not abs(value) <= _MAX_NUMBER:
            raise self._fault(f"gives {where} the number {value!r} in its {key}, expected pixels")
        return round(value)

    def _get(self, entry: Any, key: str, where: str, kinds: tuple[type, ...]) -> Any:
        value = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise self._fault(f"has {where} without a proper {key!r} (found {value!r}, expected {wanted})")
        return value

    def _fault(self, what: str) -> DataError:
        return DataError(
            f"The annotation file {self.path} {what}. Expected COCO's panoptic format "
            "(https://cocodataset.org/#format-data)."
        )
