"""Folders of a store, and making a new one.

``oci-layout``, ``index.json`` and ``blobs/`` belong to the OCI image layout; everything of ours stands under ``eco/``,
which the specification allows and other tools ignore.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from ecocli.artifacts.oci import LAYOUT_BYTES, read_index
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.files import make_directory, open_regular, write_bytes
from ecocli.runtime.formats import parse_json, read_json


@dataclass(frozen=True)
class Layout:
    """Where things stand in a store."""

    root: Path

    @property
    def marker(self) -> Path:
        """The file that makes a folder an OCI layout."""
        return self.root / "oci-layout"

    @property
    def index(self) -> Path:
        """The projection of the names for other tools."""
        return self.root / "index.json"

    @property
    def blobs(self) -> Path:
        """Content-addressed files."""
        return self.root / "blobs" / "sha256"

    @property
    def own(self) -> Path:
        """The folder that tells a store from a layout of another tool."""
        return self.root / "eco"

    @property
    def refs(self) -> Path:
        """One file per name."""
        return self.own / "refs"

    @property
    def actions(self) -> Path:
        """One file per action digest, written last."""
        return self.own / "actions"

    @property
    def provenance(self) -> Path:
        """One file per artifact: where, when and with which versions it was made."""
        return self.own / "provenance"

    @property
    def runs(self) -> Path:
        """Working folders of unfinished runs."""
        return self.own / "runs"

    @property
    def scratch(self) -> Path:
        """Temporary files."""
        return self.own / "tmp"

    @property
    def locks(self) -> Path:
        """Lock files, which only save work."""
        return self.own / "locks"

    def is_store(self) -> bool:
        """Tell whether the folder is a store of ours."""
        return self.own.is_dir()

    def create(self) -> None:
        """Make the folders that are missing; safe while others do the same.

        Raises:
            UsageError: The folder holds something else, or the file system refuses.
            ArtifactError: It is a layout of another version.
        """
        if not self.is_store():
            self._refuse_foreign()
        folders = (self.scratch, self.blobs, self.refs, self.actions, self.provenance, self.runs, self.locks)
        for folder in folders:
            make_directory(folder)
        try:
            read_json(self.marker)
        except (OSError, ValueError):
            write_bytes(self.marker, LAYOUT_BYTES, self.scratch)
        self.check_marker()

    def _refuse_foreign(self) -> None:
        try:
            found = sorted(path.name for path in self.root.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return  # made, or refused with its reason, by the caller
        if "eco" in found:
            return  # another process is making the store at this moment
        if found and "oci-layout" not in found:
            raise UsageError(
                f"{self.root} is no store: found {', '.join(found[:3])}, expected an empty folder or an OCI layout. "
                "Name another folder with --store or ECO_STORE."
            )
        if self.index.exists() and read_index(self.index):
            raise UsageError(
                f"{self.root} is an OCI layout made by another tool, and using it as a store would drop the names in "
                "its index. Take its artifacts with `eco store pull`, into a store of their own."
            )

    def check_marker(self) -> None:
        """Refuse a layout version this code does not know.

        Raises:
            ArtifactError: The marker is missing or says something else.
        """
        found = b"no file"
        with contextlib.suppress(OSError), open_regular(self.marker) as file:
            found = file.read(200)
        try:
            version = parse_json(found)["imageLayoutVersion"]
        except (ValueError, LookupError, TypeError):
            version = None
        if version != "1.0.0":
            raise ArtifactError(
                f"{self.root} is no OCI image layout: {self.marker} has {found.decode(errors='replace')!r}, "
                f"expected {LAYOUT_BYTES.decode()}."
            )
