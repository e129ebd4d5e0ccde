"""Identity of bytes: SHA-256 digests in OCI notation, and one canonical JSON form.

A digest string is ``sha256:`` and 64 lower-case hexadecimal digits. Canonical JSON has sorted keys, no spaces,
UTF-8 without escapes and no NaN or infinity, so that equal values have equal bytes. Unlike RFC 8785, ``1`` and ``1.0``
stay different: configurations are validated first, which settles the type of every number.
"""

import hashlib
import json
import re
from pathlib import Path

from ecocli.runtime.files import open_regular

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def sha256_bytes(data: bytes) -> str:
    """Return the digest string of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the digest string of a file's content.

    Raises:
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def is_digest(text: str) -> bool:
    """Tell whether a text is a complete digest string."""
    return _DIGEST.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """Return the 64 hexadecimal digits of a digest string, safe as a file name.

    Raises:
        ValueError: The text is no complete digest string.
    """
    if not is_digest(digest):
        raise ValueError(f"{digest!r} is no digest; expected 'sha256:' and 64 lower-case hexadecimal digits.")
    return digest.removeprefix("sha256:")


def canonical_json(value: object) -> bytes:
    """Encode JSON data so that equal values have equal bytes.

    Args:
        value: Dicts with text keys, lists or tuples, text, numbers, booleans, None.

    Raises:
        ValueError: A number is NaN or infinite, or a text cannot be encoded as UTF-8.
        TypeError: A value has no JSON form, or a key is no text.
    """
    _check_keys(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _check_keys(value: object) -> None:
    # json.dumps turns the keys 1 and "1" into the same text, which would give two values one digest.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"Canonical JSON has text keys only; found {key!r} ({type(key).__name__}).")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)
