"""The action entries of a store: which artifact a request has made. Written last, so that a reader finds all of it."""

import logging
from pathlib import Path

from ecocli.artifacts.digest import canonical_json, hex_of, is_digest
from ecocli.runtime.files import write_bytes
from ecocli.runtime.formats import read_json

_log = logging.getLogger(__name__)


class ActionEntries:
    """The folder of action entries.

    Args:
        directory: The folder ``eco/actions``.
        scratch: Folder for temporary files, on the same file system.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        self._directory = directory
        self._scratch = scratch

    def path(self, action_digest: str) -> Path:
        """Return the file of an entry."""
        return self._directory / f"{hex_of(action_digest)}.json"

    def read(self, action_digest: str) -> str | None:
        """Return the artifact of an entry; None if there is no entry, or, with a warning, no readable one."""
        path = self.path(action_digest)
        try:
            digest = str(read_json(path)["artifact"])
            hex_of(digest)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            _log.warning("The action entry %s is damaged (%s): its stage runs again.", path, error)
            return None
        return digest

    def write(self, action_digest: str, digest: str) -> None:
        """Let an action stand for an artifact."""
        write_bytes(self.path(action_digest), canonical_json({"artifact": digest}), self._scratch)

    def listed(self) -> list[str]:
        """Return the digests of all actions that have an entry, ascending."""
        return digests_of_files(self._directory)


def digests_of_files(directory: Path) -> list[str]:
    """Return the digests that the files ``<hex>.json`` of a folder are named after, ascending."""
    if not directory.is_dir():
        return []
    digests = (f"sha256:{path.stem}" for path in directory.iterdir() if path.suffix == ".json")
    return sorted(digest for digest in digests if is_digest(digest))
