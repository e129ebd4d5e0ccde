"""What every export comes down to: images with painted regions of named classes.

Axes: H W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True)
class ExportedClass:
    """A class of an export.

    Attributes:
        id: Its id in the annotations that are made.
        color: RGB, 0 to 255; None where the export has none.
    """

    id: int
    name: str
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Region:
    """A painted region; later ones of an image cover earlier ones.

    Attributes:
        mask: True inside, [H, W].
        is_crowd: Whether it stands for objects that are not told apart.
    """

    class_id: int
    mask: Bool[np.ndarray, "H W"]
    is_crowd: bool = False


@runtime_checkable
class Export(Protocol):
    """A folder as a drawing tool left it."""

    @property
    def image_root(self) -> Path:
        """Folder of the images."""

    @property
    def has_objects(self) -> bool:
        """Whether it tells objects of one class apart."""

    def splits(self) -> dict[str, tuple[str, ...]]:
        """Image files by the split that the export puts them in; one nameless split where it has none."""

    def classes(self) -> Sequence[ExportedClass]:
        """All classes, in ascending id order."""

    def regions(self, file_name: str, size: tuple[int, int]) -> Iterator[Region]:
        """Paint one image of some height and width."""
