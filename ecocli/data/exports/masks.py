"""Class masks: one picture per photo whose values are classes, with or without a second one whose values are objects.

CVAT's "Segmentation mask", Pascal VOC, FiftyOne's ``ImageSegmentationDirectory`` and what most programs paint.
A value is a palette index or grey level; in pictures in colour, and wherever ``labelmap.txt`` gives colours, it is the
colour 0xRRGGBB. 0 is unlabelled, and so is the index 255, unless they are given names.

Axes: H W pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecocli.data.exports.regions import ExportedClass, Region
from ecocli.data.pictures import read_values
from ecocli.errors import DataError, UsageError
from ecocli.runtime.files import read_regular
from ecocli.runtime.formats import RECORD_LIMIT_BYTES

_MOST_CLASSES = 254
_VOID_INDEX = 255


@dataclass(frozen=True)
class MaskExport:
    """Photos and their masks.

    Attributes:
        class_masks: Mask of each photo, by the photo's file name.
        object_masks: Picture of each photo whose values are objects; empty where there are none.
        labelmap: CVAT's file of names and colours, where there is one.
        names: Names of values, as the user gives them; they go before the file's.
        named_splits: Stems of the photos of each split, where the export has splits.
    """

    image_root: Path
    class_masks: Mapping[str, Path]
    object_masks: Mapping[str, Path] = field(default_factory=dict)
    labelmap: Path | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    named_splits: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def has_objects(self) -> bool:
        """Whether there are pictures of objects."""
        return bool(self.object_masks)

    def splits(self) -> dict[str, tuple[str, ...]]:
        """Photos by split."""
        photos = tuple(sorted(self.class_masks))
        if not self.named_splits:
            return {"": photos}
        return {
            split: tuple(name for name in photos if Path(name).stem in stems)
            for split, stems in self.named_splits.items()
        }

    def classes(self) -> Sequence[ExportedClass]:
        """Classes that have a name, and all other values that occur."""
        return tuple(self._classes.values())

    def regions(self, file_name: str, size: tuple[int, int]) -> Iterator[Region]:
        """Paint one photo.

        Raises:
            DataError: A mask cannot be read, has another size, or a value without a class.
        """
        values = self._read(self.class_masks[file_name], size)
        objects = self._objects(file_name, size)
        for value in np.unique(values).tolist():
            found = self._classes.get(value)
            if found is None:
                continue  # unlabelled: _classes has every other value
            inside = values == value
            for number in np.unique(objects[inside]).tolist():
                yield Region(found.id, inside & (objects == number))

    def _objects(self, file_name: str, size: tuple[int, int]) -> NDArray[np.int32]:
        path = self.object_masks.get(file_name)
        if path is None:
            return np.zeros(size, np.int32)
        return self._read(path, size, in_color=True)

    def _read(self, path: Path, size: tuple[int, int] | None = None, in_color: bool | None = None) -> NDArray[np.int32]:
        values = read_values(path, "mask", in_color=bool(self._colors) if in_color is None else in_color)
        if size is not None and values.shape != size:
            raise DataError(
                f"The mask {path} is {values.shape[1]} x {values.shape[0]} pixels, its photo {size[1]} x {size[0]}, "
                "turned upright by its EXIF mark. Export the masks at the size of the photos."
            )
        return values

    @cached_property
    def _colors(self) -> dict[int, str]:
        """Names by colour, from the file."""
        return {} if self.labelmap is None else read_labelmap(self.labelmap)

    @cached_property
    def _classes(self) -> dict[int, ExportedClass]:
        """Classes by their value in the masks."""
        given = {_value(text): name for text, name in self.names.items()}
        named = {**self._colors, **given}
        found = sorted({int(value) for path in self.class_masks.values() for value in np.unique(self._read(path))})
        in_color = bool(self._colors) or max(found, default=0) > _VOID_INDEX
        unlabelled = {0} if in_color else {0, _VOID_INDEX}
        unknown = [value for value in found if value not in named and value not in unlabelled]
        if self._colors and unknown:
            raise DataError(
                f"The masks of {self.labelmap} hold the colour {unknown[0]:06x}, which it does not name, and "
                f"{len(unknown) - 1} more. Add a line such as name:255,0,0:: for it, or export the masks again, as PNG "
                "without smoothing."
            )
        values = [value for value in [*named, *unknown] if named.get(value) != ""]
        if len(values) > _MOST_CLASSES:
            raise DataError(
                f"The masks hold {len(values)} different values, at most {_MOST_CLASSES} classes are read. Masks have "
                "one value per class: save them as PNG, without smoothing of edges."
            )
        names = {
            value: named.get(value) or (f"color {value:06x}" if in_color else f"class {value}") for value in values
        }
        if len(set(names.values())) < len(names):
            twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
            raise UsageError(f"Two values of the masks are called {twice!r}. Give each a name of its own with --names.")
        return {
            value: ExportedClass(number if in_color else value, names[value], _rgb(value) if in_color else None)
            for number, value in enumerate(values, 1)
        }


def read_labelmap(path: Path) -> dict[int, str]:
    """Read CVAT's ``labelmap.txt``: a line ``name:R,G,B:parts:actions`` per class; colour 0xRRGGBB to name.

    The class that it calls background is unlabelled, and has an empty name here.

    Raises:
        DataError: It cannot be read or holds something else.
    """
    try:
        lines = read_regular(path, RECORD_LIMIT_BYTES).decode().splitlines()
        rows = [line.rsplit(":", 3) for line in lines if line.strip() and not line.startswith("#")]
        colors = {name: [int(part) for part in color.split(",")] for name, color, *_ in rows}
        if not all(len(color) == 3 and all(0 <= part <= 255 for part in color) for color in colors.values()):
            raise ValueError("a colour is not three numbers from 0 to 255")
    except (OSError, ValueError) as error:
        raise DataError(
            f"The file {path} cannot be read ({getattr(error, 'strerror', None) or error}). Expected a line "
            "name:R,G,B:: for each class, as CVAT writes it."
        ) from error
    return {
        red << 16 | green << 8 | blue: "" if name == "background" else name
        for name, (red, green, blue) in colors.items()
    }


def _value(text: str) -> int:
    """Read a value as a user writes it: an index, or a colour of six hexadecimal digits."""
    try:
        return int(text, 16) if len(text) == 6 else int(text)
    except ValueError as error:
        raise UsageError(
            f"--names has the value {text!r}, expected an index such as 3 or a colour such as ff8000."
        ) from error


def _rgb(value: int) -> tuple[int, int, int]:
    return value >> 16, value >> 8 & 255, value & 255
