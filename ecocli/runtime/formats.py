"""The one reader of each text format that comes from outside: whatever a parser throws is a ``ValueError``.

Parsers have more ways to fail than their own errors: nesting exhausts the stack, numbers have too many digits, text
holds halves of characters (lone surrogates) that no file and no screen can take later.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

from ecocli.runtime.files import read_regular

RECORD_LIMIT_BYTES = 4 << 20
"""For manifests, names, settings and the like; the largest that eco writes has some hundred kilobytes."""


def parse_json(data: bytes | str) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is none, is nested too deeply, or holds text that is none.
    """
    try:
        found = json.loads(data)
        if (b"\\ud" if isinstance(data, bytes) else "\\ud") in data.lower():  # type: ignore[operator]  # of one type
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half a character (a lone surrogate)") from error
    return found


def read_json(path: Path, limit_bytes: int = RECORD_LIMIT_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        OSError: It is no regular file, too large, or cannot be read.
        ValueError: As ``parse_json``.
    """
    return parse_json(read_regular(path, limit_bytes))


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: It is none, or is nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def plain_text(text: str) -> str:
    """Replace what a terminal would act on, or cannot show: control characters and lone surrogates."""
    return "".join(c if c.isprintable() or c in "\n\t " else "\N{REPLACEMENT CHARACTER}" for c in text)
