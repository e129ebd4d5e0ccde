"""A user's own pictures: finding them, and reading any kind as upright RGB.

Axes: H W pixels.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from ecocli.data.pictures import MAX_PIXELS, read_picture
from ecocli.errors import DataError
from ecocli.runtime.files import open_regular, user_path

# In a folder other files are passed over in silence; a file that is named must be a picture.
PHOTO_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


def find_photos(arguments: Sequence[str], out: Path | None = None) -> list[Path]:
    """Expand files, folders and patterns.

    Args:
        arguments: As typed. A folder stands for all pictures below it, but for what no user means: results of this
            command, in `out` or elsewhere, and hidden files and folders.
        out: Where results go.

    Returns:
        Paths in the order of the arguments, those of a folder or pattern sorted, each path once.

    Raises:
        DataError: A folder or pattern holds no picture.
    """
    found: dict[Path, None] = {}
    results = out.resolve() if out is not None else None
    for argument in arguments:
        path = user_path(argument)
        if path.is_dir():
            photos = sorted(_photos_below(path, results))
            if not photos:
                raise DataError(
                    f"The folder {path} holds no pictures, leaving out earlier results and hidden files. Expected "
                    f"{', '.join(sorted(PHOTO_SUFFIXES))}."
                )
        elif path.exists() or not glob.has_magic(argument):
            photos = [path]
        else:
            photos = sorted(Path(p) for p in glob.glob(argument, recursive=True) if Path(p).is_file())  # noqa: PTH207 - absolute patterns
            if not photos:
                raise DataError(f"No file fits the pattern {argument}.")
        found |= dict.fromkeys(photos)
    return list(found)


def _photos_below(folder: Path, results: Path | None) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        place = Path(root)
        if "panoptic.json" in names and "panoptic" in folders and _is_result(place):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not _is_hidden(name) and (place / name).resolve() != results]
        for name in names:
            path = place / name
            if not _is_hidden(name) and path.suffix.lower() in PHOTO_SUFFIXES and path.is_file():
                yield path


def _is_result(folder: Path) -> bool:
    """Whether a folder was written by this command: the entries of its JSON file name the exit of each image."""
    try:
        with open_regular(folder / "panoptic.json") as file:
            return b'"exit_depth"' in file.read(64 << 20)
    except OSError:
        return False


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def read_photo(path: Path, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """Read a picture of any mode: grey-scale of 8 or 16 bits, palette, with transparency, CMYK, turned by EXIF.

    Raises:
        DataError: The file is missing, no picture, damaged or larger than the limit.
    """
    return np.array(read_picture(path, "image", max_pixels=max_pixels))
