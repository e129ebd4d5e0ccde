"""Names of artifacts: one small file each, and ``index.json`` as their projection for other tools.

A name follows the tag rule of OCI registries, so that every name can be pushed. The files under ``eco/refs`` are the
truth. The index is written, the names are listed again, and this repeats until both agree: that converges with
any number of writers and without a lock, and the next writer heals what a kill left behind.
"""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ecocli.artifacts.digest import canonical_json, is_digest
from ecocli.artifacts.oci import build_index, index_entry, read_index
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.files import storage_errors, write_bytes
from ecocli.runtime.formats import read_json

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NameEntry:
    """What a name stands for.

    Attributes:
        size_bytes: Length of its OCI manifest, which the index must state.
    """

    digest: str
    size_bytes: int
    kind: str


def is_name(text: str) -> bool:
    """Tell whether a text may be a name."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> None:
    """Refuse a text that cannot be a name.

    Raises:
        UsageError: It breaks the tag rule of OCI registries.
    """
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot be a name: expected 1 to 128 letters, digits, '.', '_' or '-', not starting with '.' "
            "or '-'."
        )


class Names:
    """The names of one store.

    Args:
        directory: The folder ``eco/refs``.
        index: The projection, ``index.json``.
        scratch: Folder for temporary files, on the same file system.
    """

    def __init__(self, directory: Path, index: Path, scratch: Path) -> None:
        self.directory = directory
        self._index = index
        self._scratch = scratch

    def path(self, name: str) -> Path:
        """Return the file of a name."""
        check_name(name)
        return self.directory / f"{name}.json"

    def read(self, name: str) -> NameEntry | None:
        """Return what a name stands for; None if there is no such name.

        Raises:
            ArtifactError: The name's file is damaged.
        """
        path = self.path(name)
        try:
            raw = read_json(path)
            ref = NameEntry(raw["digest"], raw["size"], raw["kind"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise _damaged(path) from error
        if not is_digest(str(ref.digest)) or not isinstance(ref.size_bytes, int):
            raise _damaged(path)
        return ref

    def read_all(self) -> dict[str, NameEntry]:
        """Return all readable names in ascending order; a damaged one is skipped with a warning."""
        found: dict[str, NameEntry] = {}
        for name in self.listed():
            try:
                ref = self.read(name)
            except ArtifactError as error:
                _log.warning("%s", error)
                continue
            if ref is not None:
                found[name] = ref
        return found

    def listed(self) -> list[str]:
        """Return all names in ascending order, whether their files are readable or not."""
        if not self.directory.is_dir():
            return []
        stems = (path.name.removesuffix(".json") for path in self.directory.iterdir() if path.suffix == ".json")
        return sorted(stem for stem in stems if is_name(stem))

    def write(self, name: str, ref: NameEntry) -> None:
        """Let a name stand for an artifact and bring the index up to date."""
        data = canonical_json({"digest": ref.digest, "size": ref.size_bytes, "kind": ref.kind})
        write_bytes(self.path(name), data, self._scratch)
        self.rebuild_index()

    def complete_index(self, name: str, ref: NameEntry) -> None:
        """Bring the index up to date if it lacks a name, as a kill between the two leaves it."""
        try:
            entries = [raw for _, _, raw in read_index(self._index)]
        except (ArtifactError, FileNotFoundError):
            entries = []
        if index_entry(name, ref.digest, ref.size_bytes) in entries:
            return
        # The name is what counts, also in a store that cannot be written.
        with suppress(UsageError):
            self.rebuild_index()

    def remove(self, name: str) -> None:
        """Forget a name; the index must be rebuilt afterwards."""
        path = self.path(name)
        with storage_errors(path):
            path.unlink(missing_ok=True)

    def rebuild_index(self) -> None:
        """Write ``index.json`` from the names until both agree."""
        refs = self.read_all()
        while True:
            entries = [index_entry(name, ref.digest, ref.size_bytes) for name, ref in refs.items()]
            write_bytes(self._index, build_index(entries), self._scratch)
            now = self.read_all()
            if now == refs:
                return
            refs = now


def _damaged(path: Path) -> ArtifactError:
    return ArtifactError(
        f"The name file {path} is damaged: expected JSON with digest, size and kind. Set the name anew by running the "
        "stage with --name, or delete the file."
    )
