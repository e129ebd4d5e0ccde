"""The one reader of pictures, for training, checking, scoring and predicting: any kind of file as upright RGB.

Axes: H W pixels. A picture is bounded before it is decoded: its header says its size. Grey-scale of 12 or 16 bits is
scaled to 8 bits; what would lose its content on the way (floating point, 32 bits) is refused.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import ExifTags, Image, ImageOps

from ecocli.data.near_names import near_name
from ecocli.errors import DataError
from ecocli.runtime.files import open_regular

MAX_PIXELS: Final = 178_956_970
"""Pillow's own limit against decompression bombs: 13,377 x 13,377."""
PANOPTIC: Final = "panoptic PNG"

_GREY_16_BIT: Final = ("I", "I;16", "I;16L", "I;16B", "I;16N")
# EXIF orientations that swap height and width.
_LYING: Final = (5, 6, 7, 8)


def read_picture(
    path: Path,
    what: str,
    expected_size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    root: Path | None = None,
) -> Image.Image:
    """Decode a picture file fully, as upright RGB.

    Args:
        what: What the file is, for the error message; a panoptic PNG must be stored as RGB or RGBA, and is not turned.
        expected_size: Width and height that the annotations say.
        max_pixels: Largest number of pixels that is decoded.
        root: Folder that the file's name is relative to, where a nearly right name is looked for.

    Raises:
        DataError: The file is missing, no regular file, damaged, of another size, too large, or of a mode that cannot
            be shown in 8 bits or cannot hold segment ids.
    """
    with _opened(path, what, root) as picture:
        turn = 1 if what == PANOPTIC else orientation(picture)
        size = (picture.height, picture.width) if turn in _LYING else picture.size
        if expected_size is not None and size != expected_size:
            raise DataError(_size_fault(path, size, expected_size, turn, picture.size))
        if size[0] * size[1] > max_pixels:
            raise DataError(
                f"The {what} {path} is {size[0]} x {size[1]} pixels, at most {max_pixels:,} are read. Make it smaller."
            )
        if what == PANOPTIC:
            if picture.mode not in ("RGB", "RGBA"):
                raise DataError(
                    f"The panoptic PNG {path} has mode {picture.mode}, expected RGB with the segment id as R + 256 G "
                    "+ 65536 B. Write it again from the annotations, for example with panopticapi's converters."
                )
            return picture.convert("RGB")
        picture.load()
        # Only what is turned is copied: a copy of a large picture takes hundreds of megabytes.
        return to_rgb(ImageOps.exif_transpose(picture) if turn != 1 else picture, f"The {what} {path}")


def read_values(path: Path, what: str, *, in_color: bool = False) -> Int32[np.ndarray, "H W"]:
    """Decode a picture whose pixels are numbers: palette indices or grey levels, in colour 0xRRGGBB.

    Args:
        what: What the file is, for the error message.
        in_color: Take the colour of palettes and grey levels too, not their index.

    Raises:
        DataError: The file is missing, damaged, too large, or has no whole numbers.
    """
    with _opened(path, what, None) as picture:
        if picture.width * picture.height > MAX_PIXELS or picture.mode in ("F", "CMYK", "YCbCr", "LAB", "HSV"):
            raise DataError(
                f"The {what} {path} has mode {picture.mode} and {picture.width} x {picture.height} pixels. Expected a "
                f"PNG of whole numbers or colours, of at most {MAX_PIXELS:,} pixels."
            )
        if picture.mode == "1":
            picture = picture.convert("L")
        if picture.mode in (*_GREY_16_BIT, "L", "P") and not in_color:
            return np.asarray(picture).astype(np.int32)
        rgb = np.asarray(picture.convert("RGBA")).astype(np.int32)
        return np.asarray((rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]) * (rgb[..., 3] > 0), np.int32)


def read_size(path: Path, what: str) -> tuple[int, int]:
    """Return height and width of a picture, upright; only the header is read.

    Raises:
        DataError: The file cannot be read.
    """
    with _opened(path, what, None) as picture:
        lying = orientation(picture) in _LYING
        return (picture.width, picture.height) if lying else (picture.height, picture.width)


def read_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image, 1 (upright) where there is none; only the header is read.

    Raises:
        DataError: The file cannot be read.
    """
    with _opened(path, "image", None) as picture:
        return orientation(picture)


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation of an opened picture, from 1 (upright) to 8."""
    found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


@contextlib.contextmanager
def _opened(path: Path, what: str, root: Path | None) -> Iterator[Image.Image]:
    try:
        # Pillow warns of half its limit; what is too large is decided here.
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as picture:
                yield picture
    except DataError:
        raise
    except FileNotFoundError as error:
        inside = root is not None and path.is_relative_to(root)
        near = near_name(root, path.relative_to(root).as_posix()) if root is not None and inside else None
        advice = near or "Extract the archive again, or correct the file name in the annotations."
        raise DataError(f"The {what} {path} is missing. {advice}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"The {what} {path} is too large to be read ({error}). Make it smaller.") from error
    except Exception as error:
        # Pillow reports damaged files with nearly every kind of error.
        raise DataError(
            f"The {what} {path} cannot be decoded ({getattr(error, 'strerror', None) or error}); it may be truncated. "
            "Extract or download it again."
        ) from error


def to_rgb(picture: Image.Image, named: str = "The image") -> Image.Image:
    """Convert a picture of any mode to RGB.

    Args:
        picture: Upright.

    Raises:
        DataError: Its pixels cannot be shown in 8 bits.
    """
    if picture.mode in _GREY_16_BIT:
        grey: UInt8[np.ndarray, "H W"] | np.ndarray = np.asarray(picture)
        highest = int(grey.max(initial=0))
        if highest > 0xFFFF or int(grey.min(initial=0)) < 0:
            raise DataError(
                f"{named} has grey values up to {highest}, at most 65535 are read. Scale it to 8 or 16 bits."
            )
        # 8-bit values in a wide mode stay as they are.
        scale = 257.0 if highest > 255 else 1.0
        return Image.fromarray((grey.astype(np.float32) / scale).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise DataError(f"{named} has floating-point pixels. Scale it to 8 or 16 bits.")
    if picture.mode == "P":
        # A palette with transparency converts to RGB only by way of RGBA.
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _size_fault(
    path: Path, size: tuple[int, int], expected: tuple[int, int], turn: int, stored: tuple[int, int]
) -> str:
    text = (
        f"The file {path} is {size[0]} x {size[1]} pixels (width x height), but the annotations say {expected[0]} x "
        f"{expected[1]}. "
    )
    if turn != 1 and stored == expected:
        return text + (
            f"It is turned: its EXIF orientation is {turn}, and the annotations fit the unturned pixels. Write the "
            "image again without the mark, or annotate the turned image."
        )
    return text + "Image and annotation must belong together."
