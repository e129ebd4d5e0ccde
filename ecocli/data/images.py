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
from PIL import Image

from ecocli.data.categories import Category
from ecocli.data.pictures import read_picture
from ecocli.errors import DataError
from ecocli.runtime.files import open_regular


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
        split: Name of the split, such as ``train`` or ``val``.
        categories: Categories in ascending id order; the class index is the rank.
        records: The images, in ascending order of their ids.
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
        return np.asarray(self._read(self.image_path(record), "image", record, self.image_root))

    def _read(self, path: Path, what: str, record: ImageEntry, root: Path) -> Image.Image:
        return read_picture(path, what, (record.width, record.height), root=root)

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
            with open_regular(self.annotation_file) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            for file_name in self.records.file_names:
                size = os.stat(self.image_root / file_name).st_size  # noqa: PTH116 - Path.stat is three times slower
                digest.update(f"{len(file_name)}:{file_name}:{size};".encode())
        except OSError as error:
            raise DataError(
                f"Cannot read {error.filename} ({error.strerror}), which belongs to the {self.split} split of "
                f"{self.name}. Run `eco data check` to see everything that is missing."
            ) from error
        return f"sha256:{digest.hexdigest()}"
