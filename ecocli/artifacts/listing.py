"""One line on every artifact of a store. Damaged ones are listed too, with what is wrong."""

from collections import defaultdict
from dataclasses import dataclass

from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError


@dataclass(frozen=True)
class Listing:
    """One artifact in a list.

    Attributes:
        kind: Its kind; empty if that cannot be read.
        names: All names that stand for it, ascending.
        size_bytes: Sum of its files and its manifest.
        created_at: UTC time in ISO 8601; empty if not recorded.
        problem: Why it cannot be read; empty for a readable one. The files are not verified here.
    """

    digest: str
    kind: str
    names: tuple[str, ...]
    size_bytes: int
    created_at: str
    problem: str = ""


def list_artifacts(store: Store, kind: str | None = None) -> tuple[Listing, ...]:
    """Return a line on every artifact, newest first.

    Args:
        store: The store to list; it need not exist.
        kind: List only this kind, and those whose kind cannot be read.
    """
    names = defaultdict(list)
    for name, digest in store.names().items():
        names[digest].append(name)
    lines = [_line(store, digest, tuple(names[digest])) for digest in store.digests()]
    wanted = [line for line in lines if kind is None or line.kind in (kind, "")]
    return tuple(sorted(wanted, key=lambda line: (line.created_at, line.digest), reverse=True))


def made_from(store: Store, kind: str, role: str, digest: str) -> list[str]:
    """Return the digests of the sound artifacts of a kind that were made from another artifact, the newest first.

    Of the store's others nothing is read but what all kinds share, so that those of other versions of eco do no harm.

    Args:
        role: What the other one is to them, such as ``parent``.

    Raises:
        ArtifactError: A manifest is damaged.
    """
    listed = [entry.digest for entry in list_artifacts(store, kind) if not entry.problem]
    return [one for one in listed if store.read_base(one).inputs.get(role) == digest]


def _line(store: Store, digest: str, names: tuple[str, ...]) -> Listing:
    created_at = store.read_provenance(digest).created_at
    try:
        oci = store.read_oci(digest)
    except ArtifactError as error:
        return Listing(digest, "", names, 0, created_at, str(error))
    manifest = store.blobs.descriptor(digest)
    sizes = [blob.size_bytes for blob in (manifest, oci.config, *oci.layers) if blob is not None]
    return Listing(digest, oci.kind, names, sum(sizes), created_at)
