"""The artifact store: an OCI image layout with names, actions and provenance beside it.

An artifact's digest is the SHA-256 of its OCI manifest, whose bytes are canonical JSON; that manifest pins the config
blob (the Pydantic manifest) and every file by size and SHA-256. Order of writing: files, config, manifest, provenance,
names, action. So whatever can be found is complete, at any moment and with any number of processes; a lock is never
needed for that. Reading verifies size and SHA-256 of everything it hands out.
"""

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from pydantic import JsonValue, ValidationError

from ecocli.artifacts.action_entries import ActionEntries, digests_of_files
from ecocli.artifacts.artifact import Artifact, misfit_error, wrong_kind_error
from ecocli.artifacts.blobs import Blobs, Fault, damage_error
from ecocli.artifacts.digest import canonical_json, hex_of
from ecocli.artifacts.layout import Layout
from ecocli.artifacts.locking import locked
from ecocli.artifacts.manifest import (
    FileContents,
    FileEntry,
    Manifest,
    ManifestT,
    base_manifest,
    kind_of_class,
)
from ecocli.artifacts.names import NameEntry, Names, check_name
from ecocli.artifacts.oci import EMPTY_BYTES, Descriptor, OciManifest, build_manifest, parse_manifest
from ecocli.artifacts.provenance import NOTHING_RECORDED, Provenance, local_provenance
from ecocli.errors import ArtifactError
from ecocli.runtime.files import make_directory, touch, user_path, write_bytes
from ecocli.runtime.formats import read_json

_log = logging.getLogger(__name__)
_PUT_ATTEMPTS = 3


class Store:
    """An artifact store in a folder.

    Making the object does not touch the disk; the folder is made by the first writing.
    """

    def __init__(self, root: Path | str) -> None:
        self.layout = Layout(Path(root))
        self.blobs = Blobs(self.layout.blobs, self.layout.scratch)
        self.actions = ActionEntries(self.layout.actions, self.layout.scratch)
        self.name_files = Names(self.layout.refs, self.layout.index, self.layout.scratch)

    @property
    def root(self) -> Path:
        """The store's folder."""
        return self.layout.root

    @classmethod
    def default(cls, environment: Mapping[str, str] | None = None) -> "Store":
        """Return the store that ``ECO_STORE`` names, else ``.eco`` in the working directory."""
        environment = os.environ if environment is None else environment
        return cls(user_path(environment.get("ECO_STORE", "").strip() or ".eco"))

    def create(self) -> None:
        """Make the store's folders where missing.

        Raises:
            UsageError: The folder holds something else, or the file system refuses.
        """
        self.layout.create()
        if not self.layout.index.exists():
            self.name_files.rebuild_index()

    # Writing

    def put(
        self,
        manifest: ManifestT,
        files: FileContents,
        *,
        action: str | None = None,
        provenance: Provenance = NOTHING_RECORDED,
        names: Sequence[str] = (),
    ) -> Artifact[ManifestT]:
        """Store an artifact; putting the same again changes nothing and repairs damage.

        Args:
            manifest: Its ``files`` are replaced by what is stored.
            files: Name inside the artifact to its bytes, or to a file that is copied.
            action: Digest of the action that made it; its entry is written last, then its run folder is removed.
            provenance: Recorded beside the artifact, together with host, time and versions.
            names: Names that shall stand for it.

        Raises:
            UsageError: The store cannot be written, or a name is impossible. Nothing half-written is left.
            DataError: A file to be stored cannot be read.
        """
        for name in names:
            check_name(name)
        self.create()
        for _ in range(_PUT_ATTEMPTS):
            stored, digest = self._write(manifest, files)
            # A collector without a grace period may have taken a blob that was there before; then write again.
            if not self.closure_faults(digest, full=False):
                break
        else:
            raise damage_error(self.closure_faults(digest, full=False)[0])
        self.write_provenance(digest, local_provenance().beside(provenance))
        for name in names:
            self.set_name(name, digest)
        if action is not None:
            self.actions.write(action, digest)
            self._remove_run(action)
        return Artifact(digest, stored, self.blobs)

    def _write(self, manifest: ManifestT, files: FileContents) -> tuple[ManifestT, str]:
        entries = []
        for name, content in files.items():
            blob = self.blobs.put_bytes(content) if isinstance(content, bytes) else self.blobs.put_file(content)
            entries.append(FileEntry(name=name, size_bytes=blob.size_bytes, digest=blob.digest))
        if not entries:
            self.blobs.put_bytes(EMPTY_BYTES)
        stored = manifest.with_files(entries)
        config = self.blobs.put_bytes(stored.canonical_bytes())
        return stored, self.blobs.put_bytes(build_manifest(stored.kind, config, stored.files)).digest

    def write_provenance(self, digest: str, provenance: Provenance) -> None:
        """Record where an artifact comes from, beside it."""
        self._write_record(digest, provenance.known())

    def _write_record(self, digest: str, record: Mapping[str, JsonValue]) -> None:
        write_bytes(self.provenance_path(digest), canonical_json(record), self.layout.scratch)

    def copy_provenance(self, digest: str, target: "Store", **notes: str) -> None:
        """Record beside another store's copy what is recorded here, as it is; where nothing is, here and now."""
        record = self.provenance_record(digest) or local_provenance().known()
        target._write_record(digest, {**record, **notes})

    def provenance_path(self, digest: str) -> Path:
        """Return the file that records the origin of an artifact."""
        return self.layout.provenance / f"{hex_of(digest)}.json"

    def read_provenance(self, digest: str) -> Provenance:
        """Return what is recorded on the origin of an artifact, as far as this version understands it."""
        return Provenance.known_of(self.provenance_record(digest))

    def provenance_record(self, digest: str) -> dict[str, JsonValue]:
        """Return the record of an artifact's origin as it is; empty if there is none that can be read."""
        try:
            found = read_json(self.provenance_path(digest))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def set_name(self, name: str, digest: str) -> None:
        """Let a name stand for an artifact.

        Raises:
            ArtifactError: There is no such artifact.
            UsageError: The name is impossible, or the store cannot be written.
        """
        check_name(name)
        oci = self.read_oci(digest)
        size = self.blobs.path(digest).stat().st_size
        ref = NameEntry(digest, size, oci.kind)
        try:
            if self.name_files.read(name) == ref:
                self.name_files.complete_index(name, ref)
                return
        except ArtifactError as error:
            _log.warning("%s It is written anew.", error)
        self.create()
        self.name_files.write(name, ref)

    def run_dir(self, action_digest: str) -> Path:
        """Return the working folder of an action, made if missing; it survives kills until the artifact is put."""
        self.create()
        path = self.layout.runs / hex_of(action_digest)
        make_directory(path)
        return path

    def _remove_run(self, action_digest: str) -> None:
        run = self.layout.runs / hex_of(action_digest)
        doomed = self.layout.scratch / f"{uuid.uuid4().hex}.run"
        # Renamed first: a kill in the middle must not leave a run folder that looks resumable. A refusal does no
        # harm, the collector takes the folder later.
        with suppress(OSError):
            run.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def lock(self, action_digest: str, stop: Callable[[], bool] | None = None) -> AbstractContextManager[bool]:
        """Keep other processes from computing the same action meanwhile; see `locking.locked`."""
        self.create()
        path = self.layout.locks / f"{hex_of(action_digest)}.lock"
        return locked(path, f"the same action {action_digest[:19]}", stop)

    # Reading

    def read_oci(self, digest: str) -> OciManifest:
        """Return the verified OCI manifest of an artifact.

        Raises:
            ArtifactError: It is missing, damaged or no artifact of eco.
        """
        descriptor = self.blobs.descriptor(digest)
        if descriptor is None:
            raise ArtifactError(
                f"There is no artifact {digest} in the store {self.root}. `eco store ls` lists what it has."
            )
        return parse_manifest(self.blobs.read(descriptor, f"artifact {digest}"), digest)

    def read_base(self, digest: str) -> Manifest:
        """Return the verified manifest fields that all kinds share, without looking at the files.

        Raises:
            ArtifactError: It is missing, damaged, contradicts itself or is no artifact of eco.
        """
        oci = self.read_oci(digest)
        try:
            manifest = base_manifest(self.blobs.read(oci.config, f"artifact {digest}"))
        except ValueError as error:
            raise misfit_error(digest, oci.kind, error) from error
        listed = tuple(Descriptor(entry.digest, entry.size_bytes, entry.name) for entry in manifest.files)
        if (manifest.kind, listed) != (oci.kind, oci.layers):
            raise ArtifactError(
                f"The artifact {digest} contradicts itself: its manifest is of kind {manifest.kind!r} with "
                f"{len(listed)} files, its OCI manifest of kind {oci.kind!r} with {len(oci.layers)} layers, expected "
                "the same. It was not written by eco: make it again with --force."
            )
        return manifest

    def get(self, digest: str, manifest_class: type[ManifestT]) -> Artifact[ManifestT]:
        """Return an artifact after verifying size and SHA-256 of all its files.

        Raises:
            ArtifactError: It is missing, damaged, of another kind or written by another version.
        """
        oci, kind = self.read_oci(digest), kind_of_class(manifest_class)
        if oci.kind != kind:
            raise wrong_kind_error(digest, oci.kind, kind)
        self.read_base(digest)
        try:
            manifest = manifest_class.model_validate_json(self.blobs.read(oci.config, f"{kind} {digest}"))
        except ValidationError as error:
            raise misfit_error(digest, kind, error) from error
        for layer in oci.layers:
            self.blobs.check(layer, f"{kind} {digest}")
        return Artifact(digest, manifest, self.blobs)

    def closure_faults(self, digest: str, *, full: bool) -> list[Fault]:
        """Return all damage among the blobs of one artifact.

        Args:
            full: Compare the SHA-256 of the files too; otherwise their presence and size.
        """
        owner = f"artifact {digest}"
        head = self.blobs.descriptor(digest) or Descriptor(digest, -1)
        fault = self.blobs.fault(head, owner)
        if fault is not None:
            return [fault]
        try:
            oci = parse_manifest(self.blobs.read(head, owner), digest)
        except ArtifactError as error:
            return [Fault(self.blobs.path(digest), owner, "Not an artifact", "an OCI manifest of eco", str(error))]
        faults = [self.blobs.fault(oci.config, owner)]
        faults += [self.blobs.fault(layer, owner, full=full) for layer in oci.layers]
        return [fault for fault in faults if fault is not None]

    def find_action(self, action_digest: str) -> str | None:
        """Return the artifact that an action has made before.

        Returns:
            Its digest; None if there is none, or if a file of it is missing (the stage then runs again).

        Raises:
            ArtifactError: A file of the artifact has the wrong size. Damage is never passed over in silence.
        """
        digest = self.actions.read(action_digest)
        if digest is None:
            return None
        faults = self.closure_faults(digest, full=False)
        for fault in faults:
            if not fault.is_missing:
                raise damage_error(fault)
        if faults:
            _log.warning("%s The stage runs again.", faults[0].sentence())
            return None
        # The entry before its blobs: then the collector never sees a fresh entry with old blobs.
        touch(self.actions.path(action_digest))
        oci = self.read_oci(digest)
        for descriptor in (Descriptor(digest, 0), oci.config, *oci.layers):
            touch(self.blobs.path(descriptor.digest))
        return digest

    def names(self) -> dict[str, str]:
        """Return all names, ascending, with the digests they stand for."""
        return {name: ref.digest for name, ref in self.name_files.read_all().items()}

    def digests(self) -> list[str]:
        """Return all artifacts that names, actions or provenance know, ascending, damaged ones included."""
        known = {ref.digest for ref in self.name_files.read_all().values()}
        known |= {digest for action in self.actions.listed() if (digest := self.actions.read(action))}
        known |= set(digests_of_files(self.layout.provenance))
        return sorted(known)
