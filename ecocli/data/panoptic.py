"""Panoptic data sets in COCO's format: segments, image records, decoding of images and id maps.

Axes: H W pixels, S segments of a whole split. An id map holds R + 256 G + 65536 B of the panoptic PNG; 0 is VOID.
Unlike panopticapi, image ids are text everywhere (Cityscapes has text, COCO numbers), and every inconsistency
between PNG and JSON is an error where it is first seen.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ecocli.data.categories import Category
from ecocli.errors import DataError


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: Value of its pixels in the id map; positive, unique within the image.
        category_id: Id of its category, as in the annotation file.
        is_crowd: True for a group of objects that are not told apart.
        area: Number of its pixels.
        bbox: Left, top, width, height, in pixels.
    """

    id: int
    category_id: int
    is_crowd: bool
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One annotated image.

    Attributes:
        image_id: Id as text, also where the annotation file has a number.
        file_name: Image file, relative to the image folder of the split.
        panoptic_name: Panoptic PNG file, relative to the panoptic folder of the split.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        segments: Its segments in the order of the annotation file.
    """

    image_id: str
    file_name: str
    panoptic_name: str
    height: int
    width: int
    segments: tuple[Segment, ...]


class RecordTable(Sequence[ImageRecord]):
    """Image records kept as columns: a training split of COCO takes tens of megabytes, not a gigabyte.

    A record is made anew whenever it is asked for; data-loading processes then share the columns untouched.
    """

    def __init__(self, records: Iterator[ImageRecord] | Sequence[ImageRecord]) -> None:
        """Store the records in the given order."""
        self.image_ids: list[str] = []
        self.file_names: list[str] = []
        self.panoptic_names: list[str] = []
        sizes: list[tuple[int, int]] = []
        counts: list[int] = [0]
        rows: list[tuple[int, ...]] = []
        for record in records:
            self.image_ids.append(record.image_id)
            self.file_names.append(record.file_name)
            self.panoptic_names.append(record.panoptic_name)
            sizes.append((record.height, record.width))
            counts.append(len(record.segments))
            rows.extend((s.id, s.category_id, s.is_crowd, s.area, *s.bbox) for s in record.segments)
        self._sizes = np.array(sizes, np.int32).reshape(-1, 2)
        self._starts = np.cumsum(counts)
        self._rows = np.array(rows, np.int32).reshape(-1, 8)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.image_ids)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> "RecordTable": ...

    def __getitem__(self, index: int | slice) -> "ImageRecord | RecordTable":
        """Make one record, or a table of a part."""
        if isinstance(index, slice):
            return RecordTable([self[i] for i in range(*index.indices(len(self)))])
        position = range(len(self))[index]
        height, width = self._sizes[position].tolist()
        rows = self._rows[self._starts[position] : self._starts[position + 1]].tolist()
        segments = tuple(
            Segment(id_, category, bool(crowd), area, (left, top, w, h))
            for id_, category, crowd, area, left, top, w, h in rows
        )
        return ImageRecord(
            self.image_ids[position],
            self.file_names[position],
            self.panoptic_names[position],
            height,
            width,
            segments,
        )


@dataclass(frozen=True)
class PanopticDataset:
    """One split of a data set whose files lie on disk.

    Attributes:
        name: Name of the data set.
        split: Name of the split, such as ``train`` or ``val``.
        categories: Categories in ascending id order; the class index is the rank.
        records: The images, in ascending order of their ids.
        image_root: Folder of the images.
        panoptic_root: Folder of the panoptic PNG files.
        annotation_file: The JSON file all this was read from.
        has_number_ids: True where the annotation file has numbers as image ids.
        instance_file: COCO's instance annotations of the same images, where there are any.
    """

    name: str
    split: str
    categories: tuple[Category, ...]
    records: RecordTable
    image_root: Path
    panoptic_root: Path
    annotation_file: Path
    has_number_ids: bool = True
    instance_file: Path | None = None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.records)

    @cached_property
    def class_index(self) -> dict[int, int]:
        """Class index of every category id."""
        return {category.id: rank for rank, category in enumerate(self.categories)}

    def json_image_id(self, record: ImageRecord) -> int | str:
        """Give the image id as the annotation file has it, for results that others read."""
        return int(record.image_id) if self.has_number_ids else record.image_id

    def image_path(self, record: ImageRecord) -> Path:
        """Give the path of the image."""
        return self.image_root / record.file_name

    def panoptic_path(self, record: ImageRecord) -> Path:
        """Give the path of the panoptic PNG."""
        return self.panoptic_root / record.panoptic_name

    def load_image(self, record: ImageRecord) -> NDArray[np.uint8]:
        """Decode an image [H, W, 3] as RGB, whatever its file's mode, turned upright as EXIF says.

        Raises:
            DataError: The file is missing, truncated, or not of the annotated size.
        """
        path = self.image_path(record)
        picture = read_picture(path, "image")
        _check_size(picture, record, path)
        return np.asarray(picture)

    def load_panoptic(self, record: ImageRecord) -> NDArray[np.int32]:
        """Decode the id map [H, W] and compare its ids with the annotated ones.

        Raises:
            DataError: The file is missing, truncated, of another size, no RGB PNG, or its ids differ from the
                annotation's.
        """
        path = self.panoptic_path(record)
        picture = read_picture(path, "panoptic PNG")
        _check_size(picture, record, path)
        id_map = decode_id_map(picture)
        found = set(np.unique(id_map).tolist()) - {0}
        annotated = {segment.id for segment in record.segments}
        if found != annotated:
            raise DataError(describe_id_fault(path, found - annotated, annotated - found))
        return id_map

    @cached_property
    def fingerprint(self) -> str:
        """Identify the data as ``sha256:<hex>``.

        The digest covers the bytes of the annotation file, and name and size in bytes of every annotated image
        file in ascending order of image ids; contents of images and PNG files are not read. So it is the same
        wherever the data lie, and changes with any annotation and nearly any exchanged image.

        Raises:
            DataError: The annotation file or an image is missing.
        """
        digest = hashlib.sha256()
        try:
            digest.update(hashlib.sha256(self.annotation_file.read_bytes()).digest())
            for file_name in self.records.file_names:
                size = os.stat(self.image_root / file_name).st_size  # noqa: PTH116 - Path.stat is three times slower
                digest.update(f"{len(file_name)}:{file_name}:{size};".encode())
        except OSError as error:
            raise DataError(
                f"Cannot read {error.filename} ({error.strerror}), which belongs to the {self.split} split of "
                f"{self.name}. Run `eco data check` to see everything that is missing."
            ) from error
        return f"sha256:{digest.hexdigest()}"


def read_picture(path: Path, what: str) -> Image.Image:
    """Decode a picture file fully, as RGB.

    Args:
        path: The file.
        what: What the file is, for the error message; a panoptic PNG must be stored as RGB or RGBA.

    Raises:
        DataError: The file is missing, damaged, or of a mode that cannot hold segment ids.
    """
    try:
        with Image.open(path) as picture:
            if what == "panoptic PNG" and picture.mode not in ("RGB", "RGBA"):
                raise DataError(
                    f"The panoptic PNG {path} has mode {picture.mode}, expected RGB with the segment id as R + 256 G "
                    "+ 65536 B. Write it again from the annotations, for example with panopticapi's converters."
                )
            picture.load()
            upright = picture if what == "panoptic PNG" else ImageOps.exif_transpose(picture)
            return upright.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(
            f"The {what} {path} is missing. Extract the archive again, or correct the file name in the annotations."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow reports damaged files with all three of these.
        raise DataError(
            f"The {what} {path} cannot be decoded ({error}); it may be truncated. Extract or download it again."
        ) from error


def decode_id_map(picture: Image.Image) -> NDArray[np.int32]:
    """Turn an RGB panoptic picture into the map [H, W] of segment ids R + 256 G + 65536 B."""
    packed = np.asarray(picture.convert("RGBA")).view("<u4")[..., 0]
    return (packed & np.uint32(0xFFFFFF)).astype(np.int32)


def encode_id_map(id_map: NDArray[np.int32]) -> Image.Image:
    """Turn a map [H, W] of segment ids below 2^24 into an RGB panoptic picture."""
    packed = np.ascontiguousarray(id_map, dtype="<u4").view(np.uint8).reshape(*id_map.shape, 4)
    return Image.fromarray(packed).convert("RGB")


def describe_id_fault(path: Path, only_png: set[int], only_json: set[int]) -> str:
    """Describe segment ids that only the panoptic PNG or only the annotations know."""
    parts = []
    if only_png:
        parts.append(f"holds segment ids that the annotations lack: {_list_ids(only_png)}")
    if only_json:
        parts.append(f"lacks pixels of annotated segment ids: {_list_ids(only_json)}")
    return (
        f"The panoptic PNG {path} {' and '.join(parts)}. PNG folder and JSON file must come from the same release; "
        "take both from one archive."
    )


def _list_ids(ids: set[int]) -> str:
    text = ", ".join(str(id_) for id_ in sorted(ids)[:5])
    return text + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _check_size(picture: Image.Image, record: ImageRecord, path: Path) -> None:
    if picture.size != (record.width, record.height):
        raise DataError(
            f"The file {path} is {picture.width} x {picture.height} pixels (width x height), but the annotations of "
            f"image {record.image_id} say {record.width} x {record.height}. Image and annotation must belong together."
        )
