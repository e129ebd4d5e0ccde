"""Copying artifacts between a store and another OCI layout: a folder on a USB disk, a shared folder, skopeo's output.

Blobs travel unchanged and are verified on the way, so digests stay the same. Of the other side only digests and names
are believed. A plain layout (without ``eco/``) keeps being one: only its index gains an entry. Registries are reached
with skopeo, from and to such a layout: ``skopeo copy oci:LAYOUT:NAME docker://HOST/REPOSITORY:NAME``.
"""

from pathlib import Path

from ecocli.artifacts.blobs import Blobs, damage_error
from ecocli.artifacts.layout import Layout
from ecocli.artifacts.names import check_name, is_name
from ecocli.artifacts.oci import LAYOUT_BYTES, Descriptor, build_index, index_entry, read_index
from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.files import make_directory, open_output, write_bytes

_INDEX_ATTEMPTS = 20


def push(store: Store, reference: str, target: Path, *, name: str | None = None, with_inputs: bool = False) -> str:
    """Copy an artifact into another OCI layout.

    Args:
        reference: Name, digest or prefix.
        target: A store, an OCI layout of any tool, or a folder that is empty or missing.
        name: Its name there; by default the reference, if that is a name.
        with_inputs: Copy all artifacts it was made from as well.

    Raises:
        ArtifactError: The artifact is unknown or damaged.
        UsageError: The target is something else, or cannot be written.
    """
    digest = resolve(store, reference, None)
    name = _name(store, reference, name)
    digests = _with_inputs(store, digest) if with_inputs else [digest]
    _check_all(store, digests)
    if Layout(target).is_store():
        other = Store(target)
        other.create()
        for item in digests:
            _copy(store, item, other.blobs)
            store.copy_provenance(item, other)
        if name is not None:
            other.set_name(name, digest)
        return digest
    blobs = _plain_layout(target)
    for item in digests:
        size = _copy(store, item, blobs).size_bytes
        _add_to_index(target, index_entry(name if item == digest else None, item, size))
    return digest


def pull(store: Store, source: Path, reference: str, *, name: str | None = None, with_inputs: bool = False) -> str:
    """Copy an artifact from another OCI layout into this store.

    Args:
        source: A store, or an OCI layout of any tool.
        reference: Name, digest or prefix at the source.
        name: Its name here; by default the reference, if that is a name.
        with_inputs: Copy all artifacts it was made from as well; they must be at the source.

    Raises:
        ArtifactError: The artifact is unknown, damaged or not made by eco. The store is as before.
        UsageError: The store cannot be written.
    """
    other = Store(source)
    other.layout.check_marker()
    digest = resolve(other, reference, None) if other.layout.is_store() else _find_in_index(other, reference)
    name = _name(other, reference, name)
    digests = _with_inputs(other, digest) if with_inputs else [digest]
    _check_all(other, digests)
    store.create()
    for item in digests:
        _copy(other, item, store.blobs)
        other.copy_provenance(item, store, pulled_from=str(source))
    if name is not None:
        store.set_name(name, digest)
    return digest


def _name(store: Store, reference: str, name: str | None) -> str | None:
    if name is None:
        if not is_name(reference):
            return None
        if store.layout.is_store() and store.name_files.read(reference) is None:
            return None  # a digest prefix, not a name
        return reference if store.layout.is_store() or _names_in_index(store).get(reference) else None
    check_name(name)
    return name


def _with_inputs(store: Store, digest: str) -> list[str]:
    # Inputs come first, so that an interrupted copy never leaves an artifact without what it was made from.
    found: list[str] = []

    def visit(item: str) -> None:
        if item not in found:
            for source in store.read_base(item).inputs.values():
                visit(source)
            found.append(item)

    visit(digest)
    return found


def _check_all(store: Store, digests: list[str]) -> None:
    for digest in digests:
        store.read_base(digest)
        for fault in store.closure_faults(digest, full=True):
            raise damage_error(fault)


def _copy(store: Store, digest: str, target: Blobs) -> Descriptor:
    oci = store.read_oci(digest)
    manifest = store.blobs.descriptor(digest)
    assert manifest is not None  # it was just read
    # The manifest last: whoever finds it finds all of the artifact.
    for blob in (*oci.layers, oci.config, manifest):
        copied = target.put_file(store.blobs.path(blob.digest))
        if copied.digest != blob.digest:
            store.blobs.check(blob, f"artifact {digest}")
            raise ArtifactError(f"The file {store.blobs.path(blob.digest)} changed while it was copied. Copy it again.")
    if not oci.layers:
        target.put_bytes(b"{}")
    return manifest


def _plain_layout(target: Path) -> Blobs:
    layout = Layout(target)
    open_output(target)
    if any(target.iterdir()):
        layout.check_marker()
    else:
        # First of all: a push that is killed later leaves a layout that the next one completes.
        write_bytes(layout.marker, LAYOUT_BYTES, target)
    open_output(layout.blobs.parent)
    make_directory(layout.blobs)
    if not layout.index.exists():
        write_bytes(layout.index, build_index([]), layout.blobs.parent)
    return Blobs(layout.blobs, layout.blobs.parent)


def _add_to_index(target: Path, entry: dict[str, object]) -> None:
    index = Layout(target).index
    for _ in range(_INDEX_ATTEMPTS):
        entries = [raw for _, _, raw in read_index(index)]
        if entry in entries:
            return
        name = entry.get("annotations")
        kept = [raw for raw in entries if name is None or raw.get("annotations") != name]
        # Read again afterwards: a plain layout has no truth but its index, and nobody locks that.
        write_bytes(index, build_index([*kept, entry]), index.parent)
    raise UsageError(f"Other processes keep rewriting {index}. Push again when they are done.")


def _names_in_index(store: Store) -> dict[str, str]:
    index = store.layout.index
    if not index.is_file():
        return {}
    return {name: digest for name, digest, _ in read_index(index) if name}


def _find_in_index(store: Store, reference: str) -> str:
    names = _names_in_index(store)
    if reference in names:
        return names[reference]
    index = store.layout.index
    entries = read_index(index) if index.is_file() else []
    prefix = "sha256:" + reference.removeprefix("sha256:")
    found = sorted({digest for _, digest, _ in entries if len(prefix) >= 11 and digest.startswith(prefix)})
    if len(found) == 1:
        return found[0]
    if found:
        raise ArtifactError(f"The prefix {reference!r} is ambiguous: found {', '.join(found)}. Type more digits.")
    listed = ", ".join(sorted(names)) or "no names"
    raise ArtifactError(
        f"{reference!r} is not in the layout {store.root}: expected a name, a digest or a digest prefix of at least 4 "
        f"digits; the index has {listed}."
    )
