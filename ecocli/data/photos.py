"""A user's own pictures: finding them, and reading any kind as upright RGB.

Axes: H W pixels.
"""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ecocli.errors import DataError

# In a folder other files are passed over in silence; a file that is named must be a picture.
PHOTO_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
_GREY_16_BIT: Final = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def find_photos(arguments: Sequence[str]) -> list[Path]:
    """Expand files, folders and patterns.

    Args:
        arguments: As typed. A folder stands for all pictures below it.

    Returns:
        Paths in the order of the arguments, those of a folder or pattern sorted, each path once.

    Raises:
        DataError: A folder or pattern holds no picture.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            photos = sorted(p for p in path.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
            if not photos:
                raise DataError(f"The folder {path} holds no pictures. Expected {', '.join(sorted(PHOTO_SUFFIXES))}.")
        elif path.exists() or not glob.has_magic(argument):
            photos = [path]
        else:
            photos = sorted(Path(p) for p in glob.glob(argument, recursive=True) if Path(p).is_file())  # noqa: PTH207 - absolute patterns
            if not photos:
                raise DataError(f"No file fits the pattern {argument}.")
        found |= dict.fromkeys(photos)
    return list(found)


def read_photo(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture of any mode: grey-scale of 8 or 16 bits, palette, with transparency, CMYK, turned by EXIF.

    Raises:
        DataError: The file is missing, no picture, damaged or absurdly large.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            return np.array(to_rgb(upright))
    except FileNotFoundError as error:
        raise DataError(f"The image {path} is missing.") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # Pillow reports damaged files with all of these.
        raise DataError(f"The image {path} cannot be decoded ({error}).") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _GREY_16_BIT:
        grey = np.asarray(picture).astype(np.float32)
        # Files of 12 or 16 bits fill different parts of the range; 8-bit values in a wide mode stay as they are.
        scale = 257.0 if grey.max(initial=0.0) > 255 else 1.0
        return Image.fromarray((grey / scale).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "P":
        # A palette with transparency converts to RGB only by way of RGBA.
        picture = picture.convert("RGBA")
    return picture.convert("RGB")
