"""Standard streams as a shell may leave them: closed, full, without a reader, of an encoding that lacks a character.

What is told on stderr is a courtesy: where it cannot be written, the work goes on without. What stdout cannot take is
an error. A closed stream is one that nobody wants to read: it becomes the null device, or the next file that is
opened would get its number, and whatever a library prints.
"""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ecocli.errors import UsageError

_STREAMS = 3


def prepare_streams() -> None:
    """Open the streams that are closed, and let each write what its encoding has in place of what it has not."""
    for number in range(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given, and those below are taken.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # The interpreter gives none for a closed stream.
    sys.stdout = sys.stdout or _null_stream()
    sys.stderr = sys.stderr or _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _null_stream() -> Any:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)


def silence(stream: Any) -> None:
    """Let a stream write to the null device: the interpreter flushes it at the end, and would complain."""
    # A stream that a test put in place has no number.
    with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())


def _write_or_drop(stream: Any, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        silence(stream)


def write_stderr(text: str) -> None:
    """Write to stderr at once; where that fails, this and all later text is dropped."""
    _write_or_drop(sys.stderr, text)


class FileLike(io.TextIOBase, TextIO):
    """A file with the looks of a stream, for what asks whether it writes to a terminal, and what that can show."""

    def __init__(self, stream: Any, write: Callable[[str], object]) -> None:
        super().__init__()
        self._stream, self._write = stream, write

    @property
    def encoding(self) -> Any:  # type: ignore[override]  # an attribute there; None of what only collects
        """The stream's."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Hand the text on."""
        self._write(text)
        return len(text)

    def isatty(self) -> bool:
        """Tell whether the stream is a terminal."""
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        """Give the stream's number, of which the width of a terminal is asked."""
        return int(self._stream.fileno())


def stderr_file() -> FileLike:
    """Return the stderr of now as a file that takes everything, as ``write_stderr`` does."""
    return FileLike(sys.stderr, partial(_write_or_drop, sys.stderr))


def write_stdout(text: str) -> None:
    """Write a result to stdout at once: what it does not take is noticed here, not when the interpreter shuts down.

    Raises:
        BrokenPipeError: Its reader has gone.
        UsageError: It cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise UsageError(
            f"stdout cannot be written: {error.strerror}. The result is not printed; what is in the store is kept. "
            "Send stdout elsewhere, and run the same command again."
        ) from error


def flush_streams() -> None:
    """Write what is still kept back, and drop what cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            silence(stream)
