"""Which parent a table and a gate belong to: opens them for the stages that use them together."""

from collections.abc import Sequence

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import DerivedManifest, GateManifest, ParentManifest
from ecocli.artifacts.pricing import check_price
from ecocli.artifacts.store import Store
from ecocli.config.fit_gate import GateFitConfig
from ecocli.errors import ArtifactError, UsageError

WEIGHTS_FILE = "model.safetensors"
"""A parent's state dict under Mask2Former's names."""

GATE_FILE = "gate.safetensors"
"""A gate's ``linear.weight`` [E, D] and ``linear.bias`` [E]."""


def parent_of_gate(store: Store, gate_digest: str) -> str:
    """Return the digest of the parent that a gate was fitted for.

    Raises:
        ArtifactError: The gate is missing or damaged, or does not say.
    """
    inputs = store.read_base(gate_digest).inputs
    # An imported gate came with its parent, without a table between them.
    derived, parent = inputs.get("derived"), inputs.get("parent")
    if derived is not None:
        parent = store.read_base(derived).inputs.get("parent")
    if parent is None:
        raise ArtifactError(f"The gate {gate_digest} does not say which parent it was fitted for. Fit it again.")
    return parent


def open_gate(
    store: Store, digest: str, parent: Artifact[ParentManifest], beta: float | None = None
) -> Artifact[GateManifest]:
    """Open a gate to be run with a parent.

    Args:
        beta: The price that it shall choose at; None for the one it was fitted at.

    Raises:
        ArtifactError: The gate is damaged, was fitted for another parent, or chooses exits that the parent lacks.
        UsageError: The gate has one price only; see `check_price`.
    """
    gate = store.get(digest, GateManifest)
    origin = parent_of_gate(store, digest)
    if origin != parent.digest:
        raise ArtifactError(
            f"The gate {digest} was fitted for the parent {origin}, not for {parent.digest}. Name its own parent with "
            "--parent, fit a gate for this one, or run without a gate."
        )
    strange = sorted(set(gate.manifest.exit_depths) - set(parent.manifest.exit_depths))
    if strange:
        raise ArtifactError(
            f"The gate {digest} chooses exits at depths {strange}, the parent has "
            f"{list(parent.manifest.exit_depths)}. Fit the gate again."
        )
    check_price(gate.manifest, digest, beta)
    return gate


def check_tables(store: Store, derived: str, parent: str) -> None:
    """Make sure that tables were derived from a parent.

    Raises:
        ArtifactError: They were not.
    """
    origin = store.read_base(derived).inputs.get("parent")
    if origin != parent:
        raise ArtifactError(
            f"The tables {derived} were derived from the parent {origin}, not from {parent}. Name the tables of "
            "this parent with --derived, or derive them with `eco derive`."
        )


def open_tables(store: Store, digest: str, config: GateFitConfig) -> Artifact[DerivedManifest]:
    """Open the tables that gates are to be fitted on.

    Raises:
        ArtifactError: The artifact is damaged.
        UsageError: The split or the feature to fit on is not there, or milliseconds are not known.
    """
    derived = store.get(digest, DerivedManifest)
    manifest = derived.manifest
    if config.train_split not in manifest.splits:
        raise UsageError(
            f"The derived table {digest} has the splits {', '.join(manifest.splits)}, expected "
            f"{config.train_split!r} to fit on. Derive it, or name one with --set train_split=NAME."
        )
    if config.score_split not in (*manifest.splits, "val", "none"):
        raise UsageError(
            f"The derived table {digest} has the splits {', '.join(manifest.splits)}, expected "
            f"{config.score_split!r} to score on. Derive it, name one with --set score_split=NAME, or say none to set "
            "a fifth of the images to fit on apart."
        )
    if config.feature not in manifest.feature_sizes:
        raise UsageError(
            f"The derived table {digest} has the features {', '.join(manifest.feature_sizes)}, expected "
            f"{config.feature!r}. Name one of them with --feature, or derive the table again."
        )
    if config.in_ms and len(config.exit_ms) != len(manifest.exit_depths):
        raise UsageError(
            f"Milliseconds are known for {len(config.exit_ms)} of the {len(manifest.exit_depths)} exits. Measure them "
            "with `eco profile` and name its report with --profile, or give --exit-ms."
        )
    return derived


def unseen_share(parent: ParentManifest, source: str, split: str, fingerprint: str) -> float | None:
    """Return the share of a split's images that a parent has not seen, by ``ecocli.data.hold_out``.

    Args:
        source: What the images come from, see ``DatasetConfig.source``.
        fingerprint: The split's. The same images in another place are known by it, changed annotations by the name.

    Returns:
        1 for a split that it was not trained on; None where it is not known.
    """
    trainings = parent.trained_on
    if not trainings:
        return None
    same = (one for one in trainings if one.fingerprint == fingerprint or (one.dataset, one.split) == (source, split))
    return min((one.hold_out for one in same), default=1.0)


def exit_of(parent: ParentManifest, wanted: int | None) -> int:
    """Return the exit wanted of a parent, by default its deepest.

    Raises:
        UsageError: The parent has no such exit.
    """
    depth = max(parent.exit_depths) if wanted is None else wanted
    if depth not in parent.exit_depths:
        offered = ", ".join(map(str, parent.exit_depths))
        raise UsageError(f"The parent has no exit at depth {depth}; it has {offered}.")
    return depth


def offered_exits(parent_depths: Sequence[int], deepest: int | None) -> tuple[int, ...]:
    """Return the parent's exits up to a depth.

    Raises:
        UsageError: The depth is deeper than the parent, or above it no exit is left.
    """
    deepest = parent_depths[-1] if deepest is None else deepest
    listed = ", ".join(map(str, parent_depths))
    if deepest > parent_depths[-1]:
        raise UsageError(
            f"--K is {deepest}, but the parent's deepest exit is {parent_depths[-1]} (its exits: {listed}). Give a "
            "depth up to that, or train a deeper parent."
        )
    if deepest < parent_depths[0]:
        raise UsageError(
            f"--K is {deepest}, but the parent's shallowest exit is {parent_depths[0]} (its exits: {listed}). Give a "
            "depth from there on."
        )
    return tuple(depth for depth in parent_depths if depth <= deepest)
