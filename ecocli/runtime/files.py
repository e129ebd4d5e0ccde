"""Durable file writing: a file appears whole or not at all, and a refusing disk is one clear error.

Temporary name, write, fsync, permissions, rename, fsync of the folder. All failures of the file system to take our
bytes are translated here and nowhere else.
"""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ecocli.errors import EcoError, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate what the file system answers while `path` is written into an error for the user.

    Raises:
        UsageError: The disk is full, writing is forbidden, or the path is unusable.
    """
    try:
        yield
    except OSError as error:
        raise _translated(error, path) from error


def _translated(error: OSError, path: Path) -> EcoError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        advice = (
            "Nothing half-written was left behind. Free space (`eco store gc` removes what no name needs), raise the "
            "quota or file size limit, or choose another place with --store or ECO_STORE."
        )
    elif error.errno in _REFUSED:
        advice = "Make it writable for you, or choose another place with --store or ECO_STORE."
    elif error.errno in _IN_THE_WAY:
        advice = "Something else is in its place: move it away, or choose another place with --store or ECO_STORE."
    else:
        advice = "Check the disk, or choose another place with --store or ECO_STORE."
    return UsageError(f"Cannot write {path}: {reason}. {advice}")


def make_directory(path: Path) -> None:
    """Create a folder and its parents where missing.

    Raises:
        UsageError: The file system refuses.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def replacing(path: Path, scratch: Path, *, read_only: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that appears at `path` when the block ends without an error.

    Args:
        path: Where the file shall stand; an existing file is replaced in one step.
        scratch: Existing folder on the same file system, for the temporary file.
        read_only: Take the write permissions away, as befits a content-addressed blob.

    Raises:
        UsageError: The file system refuses; nothing is left behind and `path` is as it was.
    """
    temporary = scratch / f"{os.getpid()}-{uuid.uuid4().hex}.tmp"
    with storage_errors(path):
        try:
            # The mode follows the umask, so that shared group stores work; tempfile would force 0600.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                if read_only:
                    os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o444)
                os.fsync(descriptor)
            temporary.replace(path)
            sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes, scratch: Path, *, read_only: bool = False) -> None:
    """Write a whole file in one visible step; see `replacing`."""
    with replacing(path, scratch, read_only=read_only) as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Make renames inside a folder survive a power cut, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the rename itself has happened.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}:
            raise
    finally:
        os.close(descriptor)


def touch(path: Path) -> None:
    """Refresh a file's modification time, so that the collector keeps it; no harm if that is refused."""
    with contextlib.suppress(OSError):
        os.utime(path)
