"""What `eco predict` writes for a picture, whatever its task.

Axes: H W pixels.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ecocli.inference.predictor import ImagePrediction
from ecocli.runtime.files import write_bytes

ANOTHER_FOLDER = "name another folder with --out"
# Names and outlines are readable at this size, and drawing stays quick.
_OVERLAY_PX = 1600


@dataclass(frozen=True)
class PhotoResult:
    """What was written for one image.

    Attributes:
        image_id: Position among the images found, from 1.
        files: What was written for it alone, by kind: None what was not asked for.
        found: Entries of what was found in it, segments or detections.
        instances: Instance results of a segmentation, if asked for.
    """

    image_id: int
    source: Path
    exit_depth: int
    height: int
    width: int
    files: Mapping[str, Path | None]
    found: tuple[dict[str, Any], ...]
    instances: tuple[dict[str, Any], ...] = field(default=())

    @property
    def image_entry(self) -> dict[str, object]:
        """As COCO's files list an image."""
        return {"id": self.image_id, "file_name": str(self.source), "height": self.height, "width": self.width}


@dataclass(frozen=True)
class Photo:
    """A picture and where its results go.

    Attributes:
        image_id: Position among the images found, from 1.
        name: Of its files, without suffix.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    image_id: int
    source: Path
    out: Path
    name: str


@runtime_checkable
class PhotoWriter(Protocol):
    """Writes the results of pictures.

    Attributes:
        found_name: What it finds, in the plural.
        main_name: The JSON file of everything found.
    """

    found_name: str
    main_name: str

    def write(self, photo: Photo, prediction: ImagePrediction) -> PhotoResult:
        """Write the files of one picture."""

    def write_json(self, out: Path, results: Sequence[PhotoResult]) -> None:
        """Write the files about all of them."""


def overlay_size(height: int, width: int) -> tuple[int, int]:
    """Give the size that a picture is drawn at: its own, or less where it is very large."""
    scale = min(1.0, _OVERLAY_PX / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a PNG file whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    save_bytes(path, buffer.getvalue())
    return path


def save_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content, path.parent, otherwise=ANOTHER_FOLDER)
