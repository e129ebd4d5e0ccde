"""An artifact as its readers see it, and the messages about artifacts that do not fit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from ecocli.artifacts.blobs import Blobs
from ecocli.artifacts.manifest import ManifestT
from ecocli.errors import ArtifactError, EcoError

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Artifact(Generic[ManifestT]):
    """A verified artifact.

    Attributes:
        digest: Its identity, the SHA-256 of its OCI manifest.
    """

    digest: str
    manifest: ManifestT
    blobs: Blobs

    def path_of(self, name: str) -> Path:
        """Return the path of one file, to be read only; blobs carry no file name extension.

        Raises:
            ArtifactError: The artifact has no such file.
        """
        for entry in self.manifest.files:
            if entry.name == name:
                return self.blobs.path(entry.digest)
        names = ", ".join(entry.name for entry in self.manifest.files) or "no files"
        raise ArtifactError(
            f"The {self.manifest.kind} {self.digest} has no file {name!r}; found {names}. "
            "It was made by another version of eco: run its stage again with --force."
        )

    def read(self, name: str, reader: Callable[[Path], ResultT]) -> ResultT:
        """Read one file: the one place where content that its digest fits, but that makes no sense, becomes an error.

        Raises:
            ArtifactError: There is no such file, or the reader fails in whatever way.
            EcoError: Of the reader.
        """
        path = self.path_of(name)
        try:
            return reader(path)
        except (EcoError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ArtifactError(
                f"The file {name} of the {self.manifest.kind} {self.digest} has its right digest, but not "
                f"the content ({reason}). It was not written by this version of eco: make it again with --force."
            ) from error


def wrong_kind_error(reference: str, found: str, expected: str) -> ArtifactError:
    """Return the error for an artifact of another kind than the one wanted."""
    return ArtifactError(
        f"{reference} is an artifact of kind {found!r}, expected {expected!r}. `eco store ls --kind {expected}` lists "
        "the ones there are."
    )


def misfit_error(digest: str, kind: str, reason: Exception) -> ArtifactError:
    """Return the error for a manifest that this version cannot read."""
    return ArtifactError(
        f"The manifest of the {kind} {digest} does not fit what this version expects ({_first_fault(reason)}). It was "
        "made by another version of eco: run its stage again."
    )


def _first_fault(error: Exception) -> str:
    """Name the first field that does not fit and say why; of another error, take its first line."""
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'all of it'}: {fault['msg']}"
