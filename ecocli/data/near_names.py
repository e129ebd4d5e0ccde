"""Finds the file that was probably meant where a name is nearly right.

Kinds seen in the field: other letter case, another Unicode form, backslashes, a folder too many or too few, blanks,
percent signs of a web address, another suffix of images, leading zeros.
"""

import os
import unicodedata
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote


def near_name(folder: Path, name: str) -> str | None:
    """Return the file below a folder that is nearly called `name`, and in what it differs; None where there is none.

    Args:
        folder: The folder that the name is relative to.
    """
    asked = PurePosixPath(name.replace("\\", "/"))
    parents = dict.fromkeys([*(str(part) for part in (asked.parent, *asked.parent.parents)), "."])
    # A leading folder may be one that `folder` stands in already.
    parents |= dict.fromkeys(
        str(PurePosixPath(*asked.parent.parts[start:])) for start in range(len(asked.parent.parts))
    )
    for parent in parents:
        place = folder / parent
        try:
            stamp = place.stat().st_mtime_ns
        except (OSError, ValueError):
            continue
        found = _listing(str(place), stamp).get(_plain(asked.name))
        if found is not None:
            there = str(PurePosixPath(parent) / found)
            return f"There is {there}, which differs in {_difference(name, there)}."
    return None


@lru_cache(maxsize=8)
def _listing(folder: str, stamp: int) -> dict[str, str]:
    """Names of a folder by what makes them alike; listed again when the folder has changed."""
    try:
        return {_plain(name): name for name in os.listdir(folder)}  # noqa: PTH208 - names alone, a hundred thousand
    except OSError:
        return {}


def _plain(name: str) -> str:
    stem, dot, suffix = unicodedata.normalize("NFKC", unquote(name)).casefold().strip().rpartition(".")
    known = {"jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff"}
    return (stem if dot and suffix.strip() in known else stem + dot + suffix).strip().lstrip("0")


def _difference(asked: str, found: str) -> str:
    for difference, change in (
        ("backslashes for slashes", lambda text: text.replace("\\", "/")),
        ("its Unicode form (NFC or NFD)", lambda text: unicodedata.normalize("NFC", text)),
        ("upper and lower case", str.casefold),
        ("blanks", lambda text: "".join(text.split())),
        ("its folder", lambda text: text.rpartition("/")[2]),
        ("its suffix", lambda text: text.rpartition(".")[0]),
    ):
        if change(asked) == change(found):
            return difference
    return "spelling"
