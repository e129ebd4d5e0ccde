"""Content-addressed files: ``blobs/sha256/<hex>``, mode 0444, verified whenever they are handed out.

Any number of processes may put the same blob at once: each writes its own temporary file and the renames agree. A
damaged blob is repaired by putting its content again.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from ecocli.artifacts.digest import hex_of, sha256_bytes
from ecocli.artifacts.oci import Descriptor
from ecocli.errors import ArtifactError, DataError
from ecocli.runtime.files import open_regular, read_regular, replacing, touch, write_bytes
from ecocli.runtime.formats import RECORD_LIMIT_BYTES

NO_FILE = "no file"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Fault:
    """Something wrong in a store.

    Attributes:
        owner: Artifact, name or action that needs it; empty if none does.
    """

    path: Path
    owner: str
    problem: str
    expected: str
    found: str

    @property
    def is_missing(self) -> bool:
        """Whether the file is not there at all."""
        return self.found == NO_FILE

    def sentence(self) -> str:
        """Return the fault as one sentence."""
        owner = f" of {self.owner}" if self.owner else ""
        return f"{self.problem}{owner}: found {self.found} at {self.path}, expected {self.expected}."


class Blobs:
    """The blob folder of an OCI layout.

    Args:
        directory: The folder ``blobs/sha256``.
        scratch: Folder for temporary files, on the same file system.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        self.directory = directory
        self._scratch = scratch

    def path(self, digest: str) -> Path:
        """Return where the blob of a digest stands, whether it exists or not."""
        return self.directory / hex_of(digest)

    def put_bytes(self, data: bytes) -> Descriptor:
        """Store some bytes."""
        descriptor = Descriptor(sha256_bytes(data), len(data))
        if not self._keep(descriptor):
            write_bytes(self.path(descriptor.digest), data, self._scratch, read_only=True)
        return descriptor

    def put_file(self, source: Path) -> Descriptor:
        """Store a copy of a file.

        Raises:
            DataError: The source is missing, or changed while it was read.
            UsageError: The store cannot take it.
        """
        with _opened(source) as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
            descriptor = Descriptor(digest, file.tell())
            if self._keep(descriptor):
                return descriptor
            file.seek(0)
            with replacing(self.path(digest), self._scratch, read_only=True) as target:
                if _copy(file, target) != digest:
                    raise DataError(
                        f"{source} changed while it was taken into the store: expected {digest} on second reading. "
                        "Let nothing else write to it and run the command again."
                    )
        return descriptor

    def _keep(self, descriptor: Descriptor) -> bool:
        # Only an intact blob saves the writing; a damaged one is written anew, and that repairs it.
        if self.fault(descriptor, "") is not None:
            return False
        touch(self.path(descriptor.digest))
        return True

    def fault(self, descriptor: Descriptor, owner: str, *, full: bool = True) -> Fault | None:
        """Look for damage of one blob.

        Args:
            owner: Who needs it, for the message.
            full: Compare SHA-256 too; otherwise presence and size only.
        """
        path = self.path(descriptor.digest)
        label = f"file {descriptor.title}" if descriptor.title else "blob"
        try:
            with open_regular(path, follow=False) as file:
                size = os.fstat(file.fileno()).st_size
                if size != descriptor.size_bytes:
                    expected, found = f"{descriptor.size_bytes} bytes", f"{size} bytes"
                    return Fault(path, owner, f"Wrong size of {label}", expected, found)
                digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() if full else descriptor.digest
        except FileNotFoundError:
            return Fault(path, owner, f"Missing {label}", descriptor.digest, NO_FILE)
        except OSError as error:
            reason = error.strerror or str(error)
            return Fault(path, owner, f"Unreadable {label}", descriptor.digest, f"the error '{reason}'")
        if digest != descriptor.digest:
            return Fault(path, owner, f"Damaged {label}", f"the digest {descriptor.digest}", f"the digest {digest}")
        return None

    def check(self, descriptor: Descriptor, owner: str) -> None:
        """Verify one blob.

        Raises:
            ArtifactError: It is missing, has the wrong size or the wrong content.
        """
        fault = self.fault(descriptor, owner)
        if fault is not None:
            raise damage_error(fault)

    def read(self, descriptor: Descriptor, owner: str) -> bytes:
        """Return the verified content of a small blob: a manifest.

        Raises:
            ArtifactError: It is missing, has the wrong size or the wrong content, or is too large for a manifest.
        """
        path = self.path(descriptor.digest)
        if descriptor.size_bytes > RECORD_LIMIT_BYTES:
            expected, found = f"at most {RECORD_LIMIT_BYTES:,} bytes", f"{descriptor.size_bytes:,} bytes"
            raise damage_error(Fault(path, owner, "Manifest too large", expected, found))
        self.check(descriptor, owner)
        try:
            data = read_regular(path, descriptor.size_bytes, follow=False)
        except OSError:
            data = b""
        if sha256_bytes(data) != descriptor.digest:  # it changed since the check
            self.check(descriptor, owner)
        return data

    def descriptor(self, digest: str) -> Descriptor | None:
        """Return the descriptor of a blob whose size is not known from elsewhere; None if it is missing."""
        try:
            return Descriptor(digest, self.path(digest).lstat().st_size)
        except OSError:
            return None


def damage_error(fault: Fault) -> ArtifactError:
    """Return the error for a damaged artifact, with what to do about it."""
    return ArtifactError(
        f"{fault.sentence()} Run the stage that made it again with --force, or pull it again; `eco store verify` "
        "lists all damage, `eco store gc --damaged` removes it."
    )


@contextmanager
def _opened(source: Path) -> Iterator[BufferedReader]:
    try:
        file = open_regular(source)
    except OSError as error:
        raise DataError(f"Cannot read {source} to store it: {error.strerror}.") from error
    with file:
        yield file


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    state = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        state.update(chunk)
        target.write(chunk)
    return "sha256:" + state.hexdigest()
