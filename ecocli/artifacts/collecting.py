"""Collecting what nothing needs any more.

Roots are the names, and the actions and artifacts that were written or used within the grace period; the inputs of a
live artifact are live too, so a gate keeps its parent. Only what is older than the grace period goes: a process that is
just storing or reusing something has refreshed its files. With no grace period, let nothing else use the store.
"""

import contextlib
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from ecocli.artifacts.action_entries import digests_of_files
from ecocli.artifacts.blobs import Fault
from ecocli.artifacts.checking import verify
from ecocli.artifacts.digest import is_digest
from ecocli.artifacts.locking import locked
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError
from ecocli.runtime.files import storage_errors

DEFAULT_GRACE_S = 14 * 24 * 3600.0
_SCRATCH_GRACE_S = 24 * 3600.0


@dataclass
class Collected:
    """What was removed, or would be.

    Attributes:
        names: Names of damaged artifacts.
        leftovers: Temporary files, unfinished runs and unused lock files.
    """

    names: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    blobs: list[Path] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)
    freed_bytes: int = 0


def collect(
    store: Store, grace_s: float = DEFAULT_GRACE_S, *, dry_run: bool = False, damaged: bool = False
) -> Collected:
    """Remove artifacts, blobs and leftovers that nothing needs.

    Args:
        grace_s: Keep what is younger, in seconds.
        damaged: Remove damaged artifacts as well, whatever their age, with their names.

    Raises:
        ArtifactError: A live artifact is damaged, so that nobody knows which blobs it needs; not with `damaged`.
        UsageError: The store cannot be written.
    """
    if not store.layout.is_store():
        return Collected()
    if dry_run:
        return _Collector(store, grace_s, dry_run).run(damaged)
    store.create()
    with locked(store.layout.locks / "gc.lock", "collecting garbage"):
        found = _Collector(store, grace_s, dry_run).run(damaged)
        store.name_files.rebuild_index()
        return found


class _Collector:
    def __init__(self, store: Store, grace_s: float, dry_run: bool) -> None:
        self._store = store
        self._grace_s = grace_s
        self._dry_run = dry_run
        self._gone: set[str] = set()  # damaged artifacts, which count as removed in a dry run too
        self.found = Collected()

    def run(self, damaged: bool) -> Collected:
        if damaged:
            self._drop_damaged()
        live = self._live_artifacts()
        blobs = self._blobs_of(live)
        self._drop_entries(live)
        self._drop_blobs(blobs)
        self._drop_leftovers()
        return self.found

    def _drop_damaged(self) -> None:
        store = self._store
        faults = verify(store)
        broken = {fault.path for fault in faults if not fault.is_missing}
        self._gone = {digest for digest in store.digests() if _is_faulty(store, digest, faults)}
        for name in store.name_files.listed():
            path = store.name_files.path(name)
            ref = store.name_files.read_all().get(name)
            if ref is None or ref.digest in self._gone:
                self.found.names.append(name)
                self._remove(path)
        for action in store.actions.listed():
            if store.actions.read(action) in {None, *self._gone}:
                self._remove(store.actions.path(action))
        for digest in sorted(self._gone):
            self.found.artifacts.append(digest)
            self._remove(store.provenance_path(digest))
        for path in sorted(broken):
            if path.parent == store.blobs.directory:
                self.found.blobs.append(path)
                self._remove(path)

    def _live_artifacts(self) -> set[str]:
        store = self._store
        waiting = {ref.digest for ref in store.name_files.read_all().values()}
        for action in store.actions.listed():
            if not self._is_old(store.actions.path(action)):
                waiting.add(store.actions.read(action) or "")
        for digest in digests_of_files(store.layout.provenance):
            if not self._is_old(store.provenance_path(digest)):
                waiting.add(digest)
        live: set[str] = set()
        while waiting:
            digest = waiting.pop()
            # An input need not be here: artifacts can be pulled without their inputs.
            if digest and digest not in live | self._gone and store.blobs.descriptor(digest) is not None:
                live.add(digest)
                waiting |= set(self._read(digest))
        return live

    def _read(self, digest: str) -> Iterable[str]:
        try:
            return self._store.read_base(digest).inputs.values()
        except ArtifactError as error:
            raise ArtifactError(
                f"Nothing was collected, because a damaged artifact hides what it needs. {error}"
            ) from error

    def _blobs_of(self, live: set[str]) -> set[str]:
        needed = set(live)
        for digest in live:
            oci = self._store.read_oci(digest)
            needed |= {oci.config.digest, *(layer.digest for layer in oci.layers)}
        return needed

    def _drop_entries(self, live: set[str]) -> None:
        store = self._store
        for digest in store.digests():
            if digest not in live | self._gone:
                self.found.artifacts.append(digest)
        for action in store.actions.listed():
            # The entries go before the blobs, so that no entry points into the void.
            path = store.actions.path(action)
            if store.actions.read(action) not in live | self._gone and self._is_old(path):
                self._remove(path)
        for digest in digests_of_files(store.layout.provenance):
            if digest not in live | self._gone:
                self._remove(store.provenance_path(digest))

    def _drop_blobs(self, needed: set[str]) -> None:
        directory = self._store.blobs.directory
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            digest = f"sha256:{path.name}"
            if is_digest(digest) and digest not in needed and path not in self.found.blobs and self._is_old(path):
                self.found.blobs.append(path)
                self._remove(path)

    def _drop_leftovers(self) -> None:
        layout = self._store.layout
        for path in _entries(layout.scratch):
            if self._is_old(path, min(self._grace_s, _SCRATCH_GRACE_S)):
                self._drop_leftover(path)
        for path in _entries(layout.runs):
            if self._is_old(path) and not _is_held(layout.locks / f"{path.name}.lock"):
                self._drop_leftover(path)
        for path in _entries(layout.locks):
            if path.name != "gc.lock" and self._is_old(path) and not _is_held(path):
                self._drop_leftover(path)

    def _drop_leftover(self, path: Path) -> None:
        self.found.leftovers.append(path)
        self._remove(path)

    def _is_old(self, path: Path, grace_s: float | None = None) -> bool:
        grace_s = self._grace_s if grace_s is None else grace_s
        try:
            newest = max(item.stat().st_mtime for item in (path, *path.rglob("*")))
        except FileNotFoundError:
            return False  # somebody else has just removed it
        return time.time() - newest >= grace_s

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.found.freed_bytes += sum(item.stat().st_size for item in (path, *path.rglob("*")) if item.is_file())
        if self._dry_run:
            return
        with storage_errors(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_faulty(store: Store, digest: str, faults: Iterable[Fault]) -> bool:
    owners = {digest, f"artifact {digest}"}
    return any(fault.owner in owners for fault in faults)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError, NotImplementedError):
        return True
