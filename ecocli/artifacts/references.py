"""From what a user types to a digest: names, digests and digest prefixes.

A name wins over a digest prefix that reads the same (``cafe``), with a warning; ``sha256:cafe`` always means the
digest. Prefixes have at least 4 hexadecimal digits and must be unique among the artifacts of the kind wanted.
"""

import difflib
import logging
import re

from ecocli.artifacts.artifact import wrong_kind_error
from ecocli.artifacts.digest import is_digest
from ecocli.artifacts.names import is_name
from ecocli.artifacts.store import Store
from ecocli.errors import ArtifactError

_PREFIX = re.compile(r"(sha256:)?([0-9a-f]{4,64})")
_MADE_BY = {
    "parent": "`eco import` or `eco train-parent`",
    "derived": "`eco derive`",
    "gate": "`eco fit-gate`",
    "evaluation": "`eco eval`",
}
_log = logging.getLogger(__name__)


def resolve(store: Store, reference: str, kind: str | None) -> str:
    """Return the digest that a reference stands for.

    Args:
        reference: A name, a complete digest, or a unique prefix of one, with or without ``sha256:``.
        kind: The kind wanted; None takes any.

    Raises:
        ArtifactError: It is unknown, ambiguous or of another kind.
    """
    ref = store.name_files.read(reference) if is_name(reference) else None
    match = _PREFIX.fullmatch(reference)
    if ref is not None:
        if match and any(_starts(digest, match.group(2)) for digest in store.digests() if digest != ref.digest):
            _log.warning(
                "%s is a name and a digest prefix: took the name. Type sha256:%s for the digest.", *[reference] * 2
            )
        if kind is not None and ref.kind != kind:
            raise wrong_kind_error(f"The name {reference!r}", ref.kind, kind)
        return ref.digest
    if match is None:
        raise _unknown(store, reference, kind)
    prefix = match.group(2)
    complete = f"sha256:{prefix}"
    if is_digest(complete) and store.blobs.path(complete).exists():
        found = {complete: _kind(store, complete)}
    else:
        found = {digest: _kind(store, digest) for digest in store.digests() if _starts(digest, prefix)}
    # One that cannot be read may be of the kind wanted: reading it will then say what is wrong with it.
    fitting = [digest for digest, its_kind in found.items() if kind is None or its_kind in (kind, None)]
    if len(fitting) > 1:
        lines = ", ".join(f"{digest} ({found[digest] or 'damaged'})" for digest in fitting)
        raise ArtifactError(f"The prefix {reference!r} is ambiguous: found {lines}. Type more digits.")
    if fitting:
        return fitting[0]
    if found and kind is not None:
        digest, other = next(iter(found.items()))
        raise wrong_kind_error(digest, other or "unknown", kind)
    raise _unknown(store, reference, kind)


def _starts(digest: str, prefix: str) -> bool:
    return digest.startswith(prefix, len("sha256:"))


def _kind(store: Store, digest: str) -> str | None:
    try:
        return store.read_oci(digest).kind
    except ArtifactError:
        return None


def _unknown(store: Store, reference: str, kind: str | None) -> ArtifactError:
    names = [name for name, ref in store.name_files.read_all().items() if kind is None or ref.kind == kind]
    near = difflib.get_close_matches(reference, names, n=3)
    if near:
        advice = f"Near names: {', '.join(near)}."
    elif names:
        advice = f"Names there are: {', '.join(names[:5])}."
    elif kind is not None:
        made = _MADE_BY.get(kind)
        first = f"make one with {made}" if made else "make one first"
        advice = f"The store has no name of that kind yet: {first}, or point --store or ECO_STORE elsewhere."
    else:
        advice = "The store has no names yet; --store or ECO_STORE chooses another one."
    what = f"an artifact of kind {kind!r}" if kind else "an artifact"
    return ArtifactError(
        f"{reference!r} is unknown in the store {store.root}: expected {what} by name, digest or unique digest "
        f"prefix of at least 4 digits. {advice}"
    )
