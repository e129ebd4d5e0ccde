"""Image data sets of any task: which images there are, where they lie, what identifies them.

Axes: H W pixels. Image ids are text everywhere (Cityscapes has text, COCO numbers).
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ecocli.data.categories import Category
from ecocli.errors import DataError


@runtime_checkable
class ImageEntry(Protocol):
    """What every task's record says about its image."""

    @property
    def image_id(self) -> str:
        """Id as text, also where the annotation file has a number."""

    @property
    def file_name(self) -> str:
        """Image file, relative to the image folder of the split."""

    @property
    def height(self) -> int:
        """Height of the image, in pixels."""

    @property
    def width(self) -> int:
        """Width of the image, in pixels."""


@runtime_checkable
class Records(Protocol):
    """Records kept as columns, made anew whenever one is asked for."""

    @property
    def image_ids(self) -> list[str]:
        """Id of every image."""

    @property
    def file_names(self) -> list[str]:
        """Image file of every record."""

    def __len__(self) -> int:
        """Count the images."""

    def __getitem__(self, index: int, /) -> ImageEntry:
        """Make one record."""

    def __iter__(self) -> Iterator[ImageEntry]:
        """Go through the images."""

    def take(self, indices: Sequence[int]) -> "Records":
        """The records of some images, in the order given."""


@dataclass(frozen=True)
class ImageDataset:
    """One split of a data set whose files lie on disk.

    Attributes:
        name: Name of the data set.
        split: Name of the split, such as ``train`` or ``val``.
        categories: Categories in ascending id order; the class index is the rank.
        records: The images, in ascending order of their ids.
        image_root: Folder of the images.
        annotation_file: The JSON file all this was read from.
        has_number_ids: True where the annotation file has numbers as image ids.
    """

    name: str
    split: str
    categories: tuple[Category, ...]
    records: Records
    image_root: Path
    annotation_file: Path
    has_number_ids: bool

    def __len__(self) -> int:
        """Count the images."""
        return len(self.records)

    @cached_property
    def class_index(self) -> dict[int, int]:
        """Class index of every category id."""
        return {category.id: rank for rank, category in enumerate(self.categories)}

    def json_image_id(self, record: ImageEntry) -> int | str:
        """Give the image id as the annotation file has it, for results that others read."""
        return int(record.image_id) if self.has_number_ids else record.image_id

    def image_path(self, record: ImageEntry) -> Path:
        """Give the path of the image."""
        return self.image_root / record.file_name

    def load_image(self, record: ImageEntry) -> NDArray[np.uint8]:
        """Decode an image [H, W, 3] as RGB, whatever its file's mode, turned upright as EXIF says.

        Raises:
            DataError: The file is missing, truncated, or not of the annotated size.
        """
        path = self.image_path(record)
        picture = read_picture(path, "image")
        check_size(picture, record, path)
        return np.asarray(picture)

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


def check_size(picture: Image.Image, record: ImageEntry, path: Path) -> None:
    """Compare the size of a picture with the annotated one.

    Raises:
        DataError: They differ.
    """
    if picture.size != (record.width, record.height):
        raise DataError(
            f"The file {path} is {picture.width} x {picture.height} pixels (width x height), but the annotations of "
            f"image {record.image_id} say {record.width} x {record.height}. Image and annotation must belong together."
        )
