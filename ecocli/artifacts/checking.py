"""Reading a whole store to find damage: bit flips, truncated and missing files, dangling names and entries."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ecocli.artifacts.action_entries import digests_of_files
from ecocli.artifacts.blobs import NO_FILE, Fault
from ecocli.artifacts.digest import is_digest
from ecocli.artifacts.manifest import STAGES
from ecocli.artifacts.names import NameEntry
from ecocli.artifacts.oci import Descriptor, index_entry, read_index
from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.files import SEAL, check_sealed
from ecocli.runtime.formats import read_json

_log = logging.getLogger(__name__)


def verify(store: Store, reference: str | None = None) -> tuple[Fault, ...]:
    """Return all damage; every file is read once.

    An index that lags behind the names is no damage: it is brought up to date here, with a warning. Damage to what an
    unfinished run has left is listed; its next start drops it and computes it again.

    Args:
        reference: Verify only this artifact: a name, a digest or a prefix.

    Raises:
        ArtifactError: The reference is unknown or ambiguous.
        UsageError: There is no store.
    """
    if reference is not None:
        digest = resolve(store, reference, None)
        faults = store.closure_faults(digest, full=True)
        return tuple(faults or _contradiction(store, digest))
    if not store.layout.is_store():
        raise UsageError(
            f"There is no store at {store.root}: expected a folder made by eco. Check --store and ECO_STORE; artifacts "
            "of a plain OCI layout are verified by `eco store pull`."
        )
    return (*_layout_faults(store), *_blob_faults(store), *_entry_faults(store), *_run_faults(store))


def _contradiction(store: Store, digest: str) -> list[Fault]:
    try:
        store.read_base(digest)
    except ArtifactError as error:
        return [Fault(store.blobs.path(digest), digest, "Unreadable artifact", "a manifest of eco", str(error))]
    return []


def _layout_faults(store: Store) -> list[Fault]:
    faults = []
    try:
        store.layout.check_marker()
    except ArtifactError as error:
        faults.append(Fault(store.layout.marker, "", "Damaged marker", "an OCI layout", str(error)))
    index = store.layout.index
    try:
        _heal_index(store, [raw for _, _, raw in read_index(index)])
    except FileNotFoundError:
        faults.append(Fault(index, "", "Missing index", "an OCI index", NO_FILE))
    except ArtifactError as error:
        faults.append(Fault(index, "", "Damaged index", "an OCI index", str(error)))
    return faults


def _heal_index(store: Store, entries: Sequence[Mapping[str, object]]) -> None:
    expected = [index_entry(name, ref.digest, ref.size_bytes) for name, ref in store.name_files.read_all().items()]
    # The order of entries and of their keys says nothing.
    if _as_set(entries) == _as_set(expected):
        return
    try:
        store.name_files.rebuild_index()
    except UsageError as error:
        _log.warning("The index %s lags behind the names and cannot be written. %s", store.layout.index, error)
    else:
        _log.warning("The index %s lagged behind the names, as after a kill. It is up to date now.", store.layout.index)


def _as_set(entries: Sequence[Mapping[str, object]]) -> list[str]:
    return sorted(json.dumps(entry, sort_keys=True) for entry in entries)


def _run_faults(store: Store) -> list[Fault]:
    faults = []
    for seal in sorted(store.layout.runs.glob(f"*/*/{SEAL}")):
        path = seal.parent
        try:
            check_sealed(path)
        except FileNotFoundError:
            continue  # finished or dropped meanwhile
        except (OSError, ValueError, KeyError, TypeError) as error:
            owner = f"the unfinished run {path.parent.name[:12]}, whose next start computes it again"
            faults.append(Fault(path, owner, "Damaged part", "the files of its seal", str(error)))
    return faults


def _blob_faults(store: Store) -> list[Fault]:
    owners: dict[Path, list[str]] = defaultdict(list)
    faults = []
    for digest in store.digests():
        closure = store.closure_faults(digest, full=False)
        # The damage of files that exist is found below, once for all their owners.
        faults += [fault for fault in closure if fault.is_missing]
        owners[store.blobs.path(digest)].append(digest)
        if not any(fault.path == store.blobs.path(digest) for fault in closure):
            oci = store.read_oci(digest)
            for blob in {oci.config.digest, *(layer.digest for layer in oci.layers)}:
                owners[store.blobs.path(blob)].append(digest)
        if not closure:
            faults += _contradiction(store, digest)
    for path in sorted(store.blobs.directory.iterdir()) if store.blobs.directory.is_dir() else ():
        if is_digest(f"sha256:{path.name}"):
            descriptor = Descriptor(f"sha256:{path.name}", path.stat().st_size)
            for owner in owners[path] or [""]:
                fault = store.blobs.fault(descriptor, owner)
                if fault is None:
                    break
                faults.append(fault)
    return faults


def _entry_faults(store: Store) -> list[Fault]:
    faults = []
    for name in store.name_files.listed():
        path = store.name_files.path(name)
        try:
            ref = store.name_files.read(name)
        except ArtifactError:
            faults.append(
                Fault(path, f"name {name}", "Damaged name", "JSON with digest, size and kind", "something else")
            )
            continue
        if ref is not None and store.blobs.descriptor(ref.digest) is None:
            faults.append(Fault(path, f"name {name}", "Dangling name", "an artifact that exists", ref.digest))
        if ref is not None and not any(fault.path == path for fault in faults):
            faults += _ref_faults(store, name, ref)
    for action in store.actions.listed():
        path = store.actions.path(action)
        digest = store.actions.read(action)
        if digest is None:
            faults.append(Fault(path, "", "Damaged action entry", "JSON with an artifact's digest", "something else"))
            continue
        try:
            manifest = store.read_base(digest)
        except ArtifactError:
            continue  # found above, or removed meanwhile: the stage then runs again
        stages = [stage for stage in STAGES if manifest.action_digest(stage) == action]
        if not stages:
            found = f"the artifact {digest}, which answers another request"
            faults.append(Fault(path, "", "Wrong action entry", "an artifact that answers this request", found))
    for digest in digests_of_files(store.layout.provenance):
        path = store.provenance_path(digest)
        try:
            if not isinstance(read_json(path), dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            faults.append(Fault(path, digest, "Damaged provenance", "a JSON object", str(error)))
    return faults


def _ref_faults(store: "Store", name: str, ref: NameEntry) -> list[Fault]:
    try:
        kind = store.read_oci(ref.digest).kind
    except ArtifactError:
        return []  # found with the blobs
    descriptor = store.blobs.descriptor(ref.digest)
    size = -1 if descriptor is None else descriptor.size_bytes
    if (ref.kind, ref.size_bytes) == (kind, size):
        return []
    expected, found = f"{kind} of {size} bytes", f"{ref.kind} of {ref.size_bytes} bytes"
    return [Fault(store.name_files.path(name), f"name {name}", "Wrong name", expected, found)]
