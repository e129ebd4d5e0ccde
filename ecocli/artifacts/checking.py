"""Reading a whole store to find damage: bit flips, truncated and missing files, dangling names and entries."""

from collections import defaultdict
from pathlib import Path

from ecocli.artifacts.blobs import NO_FILE, Fault
from ecocli.artifacts.digest import is_digest
from ecocli.artifacts.oci import Descriptor, parse_index
from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError, UsageError


def verify(store: Store, reference: str | None = None) -> tuple[Fault, ...]:
    """Return all damage; every file is read once.

    An index that lags behind the names is no damage: the next writer brings it up to date.

    Args:
        store: The store to read.
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
    return (*_layout_faults(store), *_blob_faults(store), *_entry_faults(store))


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
        parse_index(index.read_bytes(), str(index))
    except FileNotFoundError:
        faults.append(Fault(index, "", "Missing index", "an OCI index", NO_FILE))
    except ArtifactError as error:
        faults.append(Fault(index, "", "Damaged index", "an OCI index", str(error)))
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
    for name in store.refs.listed():
        path = store.refs.path(name)
        try:
            ref = store.refs.read(name)
        except ArtifactError:
            faults.append(
                Fault(path, f"name {name}", "Damaged name", "JSON with digest, size and kind", "something else")
            )
            continue
        if ref is not None and store.blobs.descriptor(ref.digest) is None:
            faults.append(Fault(path, f"name {name}", "Dangling name", "an artifact that exists", ref.digest))
    for action in store.actions.listed():
        if store.actions.read(action) is None:
            path = store.actions.path(action)
            faults.append(Fault(path, "", "Damaged action entry", "JSON with an artifact's digest", "something else"))
    return faults
