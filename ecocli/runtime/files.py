"""Durable files: what is written appears whole or not at all, and what is read is a regular file of a bounded size.

Temporary name, write, fsync, permissions, rename, fsync of the folder. All failures of the file system to take our
bytes are translated here and nowhere else. A sealed folder holds besides its files ``seal.json``: what the folder
holds, the SHA-256 of each file, and the SHA-256 of the seal itself, all of it visible in one rename.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from ecocli.errors import EcoError, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}

SEAL = "seal.json"
_UNFINISHED = ".unfinished-"
_ANOTHER_STORE = "choose another place with --store or ECO_STORE"
_OLD_S = 86400.0


@contextlib.contextmanager
def storage_errors(path: Path, otherwise: str = _ANOTHER_STORE) -> Iterator[None]:
    """Translate what the file system answers while `path` is written into an error for the user.

    Args:
        otherwise: How the user chooses another place.

    Raises:
        UsageError: The disk is full, writing is forbidden, or the path is unusable.
    """
    try:
        yield
    except OSError as error:
        raise _translated(error, path, otherwise) from error


def _translated(error: OSError, path: Path, otherwise: str) -> EcoError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        advice = (
            "Nothing half-written was left behind. Free space (`eco store gc` removes what no name needs), raise the "
            f"quota or file size limit, or {otherwise}."
        )
    elif error.errno in _REFUSED:
        advice = f"Make it writable for you, or {otherwise}."
    elif error.errno in _IN_THE_WAY:
        advice = f"Something else is in its place: move it away, or {otherwise}."
    else:
        advice = f"Check the disk, or {otherwise}."
    return UsageError(f"Cannot write {path}: {reason}. {advice}")


def make_directory(path: Path) -> None:
    """Create a folder and its parents where missing.

    Raises:
        UsageError: The file system refuses.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def check_output(path: Path, otherwise: str = _ANOTHER_STORE) -> None:
    """Refuse before any work a folder for results that `open_output` would refuse after it; nothing is written.

    Raises:
        UsageError: The folder cannot be made or written to.
    """
    with storage_errors(path, otherwise):
        place = path
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if not place.is_dir():
            number = errno.EEXIST if place == path else errno.ENOTDIR
            raise OSError(number, os.strerror(number))
        if not os.access(place, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def open_output(path: Path, otherwise: str = _ANOTHER_STORE) -> None:
    """Create a folder for results where missing, and remove what killed processes left of files in it.

    Raises:
        UsageError: The file system refuses.
    """
    with storage_errors(path, otherwise):
        path.mkdir(parents=True, exist_ok=True)
        drop_unfinished(path)


@contextlib.contextmanager
def replacing(
    path: Path, scratch: Path, *, read_only: bool = False, otherwise: str = _ANOTHER_STORE
) -> Iterator[BinaryIO]:
    """Open a new file that appears at `path` when the block ends without an error.

    Args:
        path: Where the file shall stand; an existing file is replaced in one step.
        scratch: Existing folder on the same file system, for the temporary file.
        read_only: Take the write permissions away, as befits a content-addressed blob.
        otherwise: How the user chooses another place.

    Raises:
        UsageError: The file system refuses; nothing is left behind and `path` is as it was.
    """
    temporary = scratch / _unfinished_name()
    with storage_errors(path, otherwise):
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


def write_bytes(
    path: Path, data: bytes, scratch: Path, *, read_only: bool = False, otherwise: str = _ANOTHER_STORE
) -> None:
    """Write a whole file in one visible step; see `replacing`."""
    with replacing(path, scratch, read_only=read_only, otherwise=otherwise) as file:
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


# Sealed folders


@contextlib.contextmanager
def sealing(target: Path, holds: str) -> Iterator[Path]:
    """Open a new folder that appears at `target`, complete and sealed, when the block ends without an error.

    Where another process has put the same there meanwhile, that one stays.

    Args:
        target: Where the folder shall be; what is there must have been removed before.
        holds: What the folder answers; a reader must ask for the same.

    Raises:
        UsageError: The file system refuses; nothing is left behind.
    """
    unfinished = target.with_name(_unfinished_name())
    with storage_errors(target):
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            digests = {path.name: _sync_and_digest(path) for path in sorted(unfinished.iterdir())}
            seal = unfinished / SEAL
            seal.write_bytes(_seal_bytes(holds, digests))
            _sync_and_digest(seal)
            sync_directory(unfinished)
            try:
                unfinished.rename(target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                shutil.rmtree(unfinished, ignore_errors=True)
            sync_directory(target.parent)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def check_seal(path: Path, holds: str) -> None:
    """Make sure that a sealed folder holds what is asked for, byte by byte.

    Raises:
        ValueError: It does not; the message says what differs.
        OSError: It cannot be read.
    """
    if path.is_symlink():
        raise ValueError("it is a link")
    names = {entry.name for entry in path.iterdir()} - {SEAL}
    digests = {name: _digest(path / name) for name in sorted(names)}
    expected = _seal_bytes(holds, digests)
    found = read_regular(path / SEAL, len(expected), follow=False)
    if found != expected:
        raise ValueError(f"its files disagree with its {SEAL}")


@contextlib.contextmanager
def replacing_folder(target: Path, otherwise: str) -> Iterator[Path]:
    """Open a new folder that takes the place of `target` when the block ends without an error.

    Args:
        target: Where the folder shall be; a folder that is there is removed once the new one is complete.
        otherwise: How the user chooses another place.

    Raises:
        UsageError: The file system refuses; nothing is left behind.
    """
    open_output(target.parent, otherwise)
    new, old = (target.with_name(_unfinished_name()) for _ in range(2))
    with storage_errors(target, otherwise):
        try:
            new.mkdir()
            yield new
            for path in new.iterdir():
                _sync_and_digest(path)
            sync_directory(new)
            if target.is_dir():
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.is_dir():
                    old.rename(target)
                raise
            sync_directory(target.parent)
        finally:
            for path in (new, old):
                shutil.rmtree(path, ignore_errors=True)


def _unfinished_name() -> str:
    return f"{_UNFINISHED}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"


def check_sealed(path: Path) -> None:
    """Make sure that a sealed folder is what was sealed, whatever that is.

    Raises:
        ValueError: It is not.
        OSError: It cannot be read.
    """
    content = json.loads(json.loads(read_regular(path / SEAL, 1 << 20, follow=False))["sealed"])
    check_seal(path, content["holds"])


def drop_unfinished(folder: Path) -> None:
    """Remove what killed processes left of files and folders, but nothing that a living one may still write."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        host, _, rest = path.name.removeprefix(_UNFINISHED).rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError):
            here = host == socket.gethostname() and rest.isdecimal()
            if (here and not _is_alive(int(rest))) or time.time() - path.stat().st_mtime > _OLD_S:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _seal_bytes(holds: str, digests: dict[str, str]) -> bytes:
    content = json.dumps({"holds": holds, "files": digests}, sort_keys=True)
    return json.dumps({"seal": hashlib.sha256(content.encode()).hexdigest(), "sealed": content}).encode()


def _digest(path: Path) -> str:
    with open_regular(path, follow=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


# Reading


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return a path as a user writes it, ``~`` included.

    Raises:
        UsageError: There is no such user or no home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"The path {text} cannot be expanded: {error} Write it out.") from error


def open_regular(path: Path, *, follow: bool = True) -> BufferedReader:
    """Open a file for reading if it is one: no pipe, no device, and no folder, which would wait or never end.

    Args:
        follow: Whether it may be a link.

    Raises:
        OSError: It is none, or it cannot be opened; ``strerror`` says which.
    """
    # Non-blocking: the open of a pipe without a writer would wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"It is {_kind_of_file(mode)}, not a regular file", str(path))
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit_bytes: int, *, follow: bool = True) -> bytes:
    """Read a whole regular file of a bounded size.

    Raises:
        OSError: It is larger, no regular file, or cannot be read; ``strerror`` says which.
    """
    with open_regular(path, follow=follow) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"It has more than {limit_bytes:,} bytes", str(path))
    return data


def _kind_of_file(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"
