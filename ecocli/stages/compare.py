"""Several parents on one split: every fixed exit and every gate named, beside what they cost.

Inputs: digests of parents of one task, each with gates or none. PQ, of detectors AP, and GFLOPs are arithmetic on the
derived tables in the store; mIoU and AP of masks are those of an evaluation of that parent and gate, by the same rules
in all rows; milliseconds those of a profile or an evaluation, where the store has them. Files: ``compare.parquet``, one
row per choice; ``compare.png``, the plot. No artifact is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import open_gate
from ecocli.artifacts.listing import made_from
from ecocli.artifacts.manifest import DerivedManifest, EvaluationManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.summaries import MEASURES, EvaluationRow
from ecocli.config.base import Config
from ecocli.config.compare import CompareConfig
from ecocli.config.derive import TaskName
from ecocli.config.rules import RulesName, rules_of
from ecocli.errors import UsageError
from ecocli.exits import gate_gflops
from ecocli.runtime.files import check_output, open_output, user_path, write_bytes

if TYPE_CHECKING:
    import numpy as np

_ANOTHER_FOLDER = "name another folder with --out"
_DOCS = {
    "model": ("what the user called the parent", ""),
    "architecture": ("name of its architecture", ""),
    "choice": ("a fixed exit, or a gate at its price", ""),
    "pq": ("quality of the split: PQ, of detectors AP", "ratio 0..1"),
    "miou": ("mean IoU, where the store has an evaluation", "ratio 0..1"),
    "ap": ("mask AP, where the store has an evaluation", "ratio 0..1"),
    "rules": ("whose rules mIoU and mask AP follow", ""),
    "gflops": ("mean GFLOPs of an image, one multiply-add counted once", "GFLOPs"),
    "encoder_gflops": ("the pixel decoder's share of it", "GFLOPs"),
    "ms": ("milliseconds of an image, where the store has them; a gate's own, or the mean of its exits", "ms"),
    "mean_depth": ("mean encoder layers run", "layers"),
    "on_frontier": ("whether no other row has at least this quality for at most these GFLOPs", ""),
}


@dataclass(frozen=True)
class Contestant:
    """A parent, and the gates of it that are to be compared.

    Attributes:
        label: What the user called it.
    """

    label: str
    parent: str
    gates: tuple[str, ...]


class CompareRow(Config):
    """One way of choosing exits of one parent; each field is a column of ``compare.parquet``, described there."""

    model: str
    architecture: str
    choice: str
    pq: float | None
    miou: float | None
    ap: float | None
    rules: RulesName
    gflops: float
    encoder_gflops: float
    ms: float | None
    mean_depth: float
    on_frontier: bool = False


@dataclass(frozen=True)
class Comparison:
    """All rows, by parent.

    Attributes:
        rules: Whose rules mIoU and the AP of masks follow.
    """

    split: str
    task: TaskName
    images: int
    rules: RulesName
    rows: tuple[CompareRow, ...]
    files: tuple[Path, ...]


def run(config: CompareConfig, contestants: Sequence[Contestant], store: Store) -> Comparison:
    """Compare.

    Raises:
        ArtifactError: A parent, gate or table is missing or damaged, or a gate is another parent's.
        UsageError: A parent has no derived table of the split, the tables are of different images, or the folder
            cannot be written.
    """
    if config.out is not None:
        check_output(user_path(config.out), _ANOTHER_FOLDER)
    rows: list[CompareRow] = []
    images: dict[str, tuple[str, int]] = {}
    tasks: dict[str, TaskName] = {}
    rules: RulesName = config.rules or "coco"
    for contestant in contestants:
        parent = store.get(contestant.parent, ParentManifest)
        derived = _tables(store, parent, contestant, config.split)
        rules = config.rules or rules_of(derived.manifest.dataset.name)
        images[contestant.label] = (
            derived.manifest.dataset_fingerprints.get(config.split, ""),
            derived.manifest.rows[config.split],
        )
        tasks[contestant.label] = derived.manifest.task
        rows += _rows(store, parent, contestant, derived, config.split, rules)
    if len(set(tasks.values())) > 1:
        listed = ", ".join(f"{label}: {MEASURES[task]}" for label, task in tasks.items())
        raise UsageError(
            f"The parents are of different tasks and measured by different numbers ({listed}). Compare those of one."
        )
    if len({fingerprint for fingerprint, _ in images.values()}) > 1:
        listed = ", ".join(f"{label}: {count} images" for label, (_, count) in images.items())
        raise UsageError(
            f"The derived tables hold different images under the split {config.split!r} ({listed}). Derive all parents "
            "on the same data set."
        )
    marked = _mark_frontier(rows)
    count = next(iter(images.values()))[1] if images else 0
    usual: TaskName = "panoptic"
    task = next(iter(tasks.values()), usual)
    return Comparison(config.split, task, count, rules, marked, _write(config, marked, count, MEASURES[task]))


def _tables(
    store: Store, parent: Artifact[ParentManifest], contestant: Contestant, split: str
) -> Artifact[DerivedManifest]:
    """The tables of the parent's gates, which must agree; without a gate the newest tables with the split."""
    wanted: set[str] = set()
    for gate in contestant.gates:
        table = store.read_base(gate).inputs.get("derived")
        if table is None:
            raise UsageError(
                f"The gate {gate} was imported: no table here says what it would choose, which is what a comparison "
                "is made of. Name a gate that `eco fit-gate` fitted, or leave it out."
            )
        wanted.add(table)
    if len(wanted) > 1:
        raise UsageError(f"The gates of {contestant.label} were fitted on different tables; compare gates of one.")
    for digest in wanted or made_from(store, "derived", "parent", parent.digest):
        derived = store.get(digest, DerivedManifest)
        if derived.manifest.inputs.get("parent") == parent.digest and split in derived.manifest.splits:
            return derived
    raise UsageError(
        f"The store has no derived table of {contestant.label} ({parent.digest}) with the split {split!r}. Make it "
        "with `eco derive`, or name another split with --split."
    )


def _rows(
    store: Store,
    parent: Artifact[ParentManifest],
    contestant: Contestant,
    derived: Artifact[DerivedManifest],
    split: str,
    rules: RulesName,
) -> list[CompareRow]:
    import numpy as np

    from ecocli.artifacts.derived_table import read_split
    from ecocli.gates.placed import exit_table, placed_choice

    feature = next(iter(derived.manifest.feature_sizes))
    table = exit_table(derived, read_split(derived, split, feature))
    fingerprint = derived.manifest.dataset_fingerprints.get(split, "")
    measured = _milliseconds(store, parent.digest)
    scored = _evaluations(store, parent.digest, fingerprint, rules)
    everyone = np.arange(len(table.gflops))

    def row(name: str, choice: "np.ndarray", further: EvaluationRow | None, ms: float | None, own: float) -> CompareRow:
        pq = table.counts.assignment_quality(choice)
        return CompareRow(
            model=contestant.label,
            architecture=parent.manifest.architecture.name,
            choice=name,
            pq=None if np.isnan(pq) else float(pq),
            miou=None if further is None else further.miou,
            ap=None if further is None else further.ap,
            rules=rules,
            gflops=float(table.gflops[everyone, choice].mean()) + own,
            encoder_gflops=float(table.encoder_gflops[everyone, choice].mean()),
            ms=ms,
            mean_depth=float(np.array(table.exit_depths)[choice].mean()),
        )

    rows = []
    for index, depth in enumerate(table.exit_depths):
        name = f"exit {depth}"
        rows.append(row(name, np.full(len(everyone), index), scored.get((None, name)), measured.get(name), 0.0))
    for digest in contestant.gates:
        gate = open_gate(store, digest, parent)
        manifest = gate.manifest
        choice = placed_choice(gate, table, read_split(derived, split, manifest.feature), manifest.beta)
        own = gate_gflops(derived.manifest.feature_sizes[manifest.feature], len(manifest.exit_depths))
        times = [measured.get(f"exit {depth}") for depth in table.exit_depths]
        known = [time for time in times if time is not None]
        ms = float(np.array(known)[choice].mean()) if len(known) == len(times) else None
        rows.append(row(f"gate, beta {manifest.beta:g}", choice, scored.get((digest, "gate")), ms, own))
    return rows


def _milliseconds(store: Store, parent: str) -> dict[str, float]:
    """Milliseconds of an image by exit, of the newest profile or evaluation of the parent that measured them."""
    for kind in ("profile", "evaluation"):
        for digest in made_from(store, kind, "parent", parent):
            measured = store.read_provenance(digest).ms_per_image
            if measured:
                return measured
    return {}


def _evaluations(
    store: Store, parent: str, fingerprint: str, rules: RulesName
) -> dict[tuple[str | None, str], EvaluationRow]:
    """Rows of evaluations of these images by these rules, by gate (None for a fixed exit) and name."""
    found: dict[tuple[str | None, str], EvaluationRow] = {}
    for digest in made_from(store, "evaluation", "parent", parent):
        manifest = store.get(digest, EvaluationManifest).manifest
        if fingerprint not in manifest.dataset_fingerprints.values():
            continue
        if manifest.summary.rules != rules:
            continue
        for row in manifest.summary.rows:
            gate = manifest.inputs.get("gate") if row.name == "gate" else None
            if row.miou is not None or row.ap is not None:
                found.setdefault((gate, row.name), row)
    return found


def _mark_frontier(rows: Sequence[CompareRow]) -> tuple[CompareRow, ...]:
    """Mark the rows that no other row beats: of more quality for no more GFLOPs, or fewer GFLOPs for no less of it."""

    def beaten(row: CompareRow) -> bool:
        return row.pq is None or any(
            other.pq is not None
            and other.pq >= row.pq
            and other.gflops <= row.gflops
            and (other.pq > row.pq or other.gflops < row.gflops)
            for other in rows
        )

    return tuple(row.model_copy(update={"on_frontier": not beaten(row)}) for row in rows)


def _write(config: CompareConfig, rows: Sequence[CompareRow], images: int, measure: str) -> tuple[Path, ...]:
    if config.out is None:
        return ()
    import pyarrow as pa

    from ecocli.artifacts.tables import ColumnDoc, document_columns, write_table
    from ecocli.reports.plots import TradeoffPoint, draw_comparison

    folder = user_path(config.out)
    open_output(folder, _ANOTHER_FOLDER)
    numbers = ("pq", "miou", "ap", "gflops", "encoder_gflops", "ms", "mean_depth")
    schema = pa.schema(
        (name, pa.float64() if name in numbers else pa.bool_() if name == "on_frontier" else pa.string())
        for name in _DOCS
    )
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema)
    write_table(
        folder / "compare.parquet", document_columns(table, {name: ColumnDoc(*doc) for name, doc in _DOCS.items()})
    )

    def points(model: str, gated: bool) -> list[TradeoffPoint]:
        return [
            TradeoffPoint(row.choice.removeprefix("gate, "), row.gflops, row.pq)
            for row in rows
            if row.model == model and row.choice.startswith("gate") == gated and row.pq is not None
        ]

    series = [(model, points(model, False), points(model, True)) for model in dict.fromkeys(row.model for row in rows)]
    frontier = [TradeoffPoint("", row.gflops, row.pq) for row in rows if row.on_frontier and row.pq is not None]
    title = f"Split {config.split}: {images} images"
    plot = draw_comparison(title, measure, series, frontier)
    write_bytes(folder / "compare.png", plot, folder, otherwise=_ANOTHER_FOLDER)
    return (folder / "compare.parquet", folder / "compare.png")
