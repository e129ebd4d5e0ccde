"""What annotation files in COCO's formats have in common: categories, images, and errors that name the place.

Images and annotations are joined by image id, never by position. Every fault names the file, the place within it and
what was expected, because such files come from many converters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecocli.data.categories import Category, palette_color
from ecocli.errors import DataError
from ecocli.runtime.formats import read_json

MAX_NUMBER = 2**31 - 1
"""Records hold 32-bit numbers."""
ANNOTATION_LIMIT_BYTES = 3 << 29
"""COCO's largest has 0.45 GB, LVIS' 1.1."""


class CocoFile:
    """One file; knows its path for the error messages."""

    format = "COCO's panoptic format"

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any]:
        """Read the file, with its lists of images, annotations and categories."""
        try:
            content = read_json(self.path, ANNOTATION_LIMIT_BYTES)
        except FileNotFoundError as error:
            raise DataError(f"The annotation file {self.path} is missing.") from error
        except OSError as error:
            raise DataError(f"The annotation file {self.path} cannot be read ({error.strerror}).") from error
        except ValueError as error:
            raise DataError(
                f"The annotation file {self.path} is not valid JSON ({error}); it may be truncated. "
                "Extract or download it again."
            ) from error
        for key in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise self.fault(f"has no list {key!r}")
        return dict(content)

    def categories(self, entries: list[Any]) -> tuple[Category, ...]:
        """Read the categories, in ascending id order."""
        categories = {}
        for given in entries:
            entry = self.category_defaults(given) if isinstance(given, dict) else given
            id_ = self.get(entry, "id", "a category", (int,))
            where = f"category {id_}"
            if id_ in categories:
                raise self.fault(f"has category id {id_} twice")
            if not 0 <= id_ <= MAX_NUMBER:
                raise self.fault(f"has the category id {id_}, but ids run from 0 to {MAX_NUMBER}")
            is_thing = self.flag(entry, "isthing", where)
            categories[id_] = Category(
                id_,
                self.get(entry, "name", where, (str,)),
                str(entry.get("supercategory", "")),
                is_thing,
                self._color(entry.get("color") or palette_color(id_, is_thing), where),
            )
        if not categories:
            raise self.fault("has no categories")
        return tuple(categories[id_] for id_ in sorted(categories))

    def category_defaults(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Add what files of this kind may leave out of a category."""
        return entry

    def _color(self, color: Any, where: str) -> tuple[int, int, int]:
        parts = color if isinstance(color, list | tuple) else ()
        if len(parts) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
            raise self.fault(f"gives {where} the color {color!r}, expected three numbers from 0 to 255")
        red, green, blue = parts
        return red, green, blue

    def images(self, entries: list[Any]) -> dict[int | str, Mapping[str, Any]]:
        """Check the images; they come by id."""
        images: dict[int | str, Mapping[str, Any]] = {}
        for entry in entries:
            id_ = self.get(entry, "id", "an image", (int, str))
            for key, kind in (("file_name", str), ("height", int), ("width", int)):
                value = self.get(entry, key, f"image {id_}", (kind,))
                if kind is int and not 0 < value <= MAX_NUMBER:
                    raise self.fault(f"gives image {id_} the {key} {value}, expected a positive number of pixels")
            if id_ in images:
                raise self.fault(f"has image id {id_} twice")
            images[id_] = entry
        if not images:
            raise self.fault("has no images")
        return images

    def number(self, value: Any, key: str, where: str) -> float:
        """Read a number of pixels."""
        # A number that is none, which JSON files of Python's may hold, is not within the bounds either.
        if not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            raise self.fault(f"gives {where} the number {value!r} in its {key}, expected pixels")
        return float(value)

    def get(self, entry: Any, key: str, where: str, kinds: tuple[type, ...]) -> Any:
        """Read a value of one of some kinds."""
        value = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise self.fault(f"has {where} without a proper {key!r} (found {value!r}, expected {wanted})")
        return value

    def flag(self, entry: Mapping[str, Any], key: str, where: str, default: int | None = None) -> bool:
        """Read a value that is 0 or 1, or true or false."""
        value = entry.get(key, default)
        if not isinstance(value, int) or value not in (0, 1):
            raise self.fault(f"has {where} without a proper {key!r} (found {value!r}, expected 0 or 1)")
        return bool(value)

    def image_of(self, entry: Any, images: Mapping[int | str, Any]) -> int | str:
        """Read which image an annotation belongs to."""
        id_: int | str = self.get(entry, "image_id", "an annotation", (int, str))
        if id_ not in images:
            other = next((known for known in images if str(known) == str(id_)), None)
            if other is not None:
                kinds = ("text", "a number") if isinstance(id_, str) else ("a number", "text")
                raise self.fault(
                    f"gives an annotation the image_id {id_!r}, which is {kinds[0]}, but the image has {other!r}, "
                    f"which is {kinds[1]}: write both as numbers or both as text"
                )
            raise self.fault(f"has an annotation of image {id_}, which is not among its images")
        return id_

    def fault(self, what: str) -> DataError:
        """Describe what is wrong with the file."""
        return DataError(
            f"The annotation file {self.path} {what}. Expected {self.format} (https://cocodataset.org/#format-data)."
        )
