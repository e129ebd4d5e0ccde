"""Many gates over one reading of the derived table: beta x K x head.

Input: ``derived``. Files: ``sweep.parquet``, one row per gate with its controls; ``sweep.svg``, the trade-off plot.
The report's summary holds the same rows. Neighbouring betas start warm; each gate is the one that ``fit-gate`` fits, up
to the tolerance of the solver.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from ecocli.artifacts.action import Action, run_or_reuse
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import DerivedManifest, FileContents, ReportManifest
from ecocli.artifacts.store import Store
from ecocli.config.sweep import SweepConfig
from ecocli.errors import InterruptedRunError, UsageError
from ecocli.runtime.context import Runtime

if TYPE_CHECKING:
    from ecocli.gates.fitter import FittedGate
    from ecocli.metrics.controls import Verdict

STAGE = "sweep"
SCHEMA_VERSION = 1
NAME = "sweep"
"""A further name of every sweep, since other reports share the kind."""

_DOCS = {
    "head": ("what the gate predicts", ""),
    "deepest_exit": ("deepest exit on offer, in encoder layers run", "layers"),
    "beta": ("price of one unit of cost in panoptic quality", "PQ per unit of cost"),
    "pq": ("panoptic quality of the gate", "ratio 0..1"),
    "pq_low": ("lower end of its 95 % bootstrap interval", "ratio 0..1"),
    "pq_high": ("upper end of its 95 % bootstrap interval", "ratio 0..1"),
    "cost": ("mean cost of an image in the unit of the cost model", ""),
    "gflops": ("mean GFLOPs of an image, one multiply-add counted once", "GFLOPs"),
    "encoder_gflops": ("the pixel decoder's share of it", "GFLOPs"),
    "mean_depth": ("mean encoder layers run", "layers"),
    "exit_shares": ("share of the images at each exit on offer", "ratio 0..1"),
    "lead": ("PQ less that of the best fixed mixture of equal cost", "ratio"),
    "lead_low": ("lower end of its 95 % bootstrap interval", "ratio"),
    "lead_high": ("upper end of its 95 % bootstrap interval", "ratio"),
    "blend_pq": ("PQ of the best fixed mixture of equal cost", "ratio 0..1"),
    "random_pq": ("PQ of a random gate of the same mixture", "ratio 0..1"),
    "best_fixed_exit": ("fixed exit of the best PQ", "layers"),
    "best_fixed_pq": ("its PQ", "ratio 0..1"),
    "majority_exit": ("target exit of most training images", "layers"),
    "majority_pq": ("its PQ", "ratio 0..1"),
    "accuracy": ("share of the images on which the gate takes the target exit", "ratio 0..1"),
    "majority_accuracy": ("the same for the majority exit", "ratio 0..1"),
    "oracle_pq": ("PQ of each image at its exit of best quality", "ratio 0..1"),
    "oracle_gflops": ("its mean GFLOPs", "GFLOPs"),
    "target_pq": ("PQ of each image at its target exit: the oracle at this beta", "ratio 0..1"),
    "target_gflops": ("its mean GFLOPs", "GFLOPs"),
    "l2": ("regularisation strength chosen", ""),
    "evaluations": ("passes over the features of the final fit", ""),
}


def plan(
    config: SweepConfig, inputs: Mapping[str, str], store: Store
) -> tuple[Action, Artifact[DerivedManifest], tuple[tuple[int, ...], ...]]:
    """Say exactly what is asked, on which table, and over which sets of exits.

    Raises:
        ArtifactError: The derived table is damaged.
        UsageError: The settings do not fit the table.
    """
    derived = store.get(inputs["derived"], DerivedManifest)
    depths = derived.manifest.exit_depths
    strange = [deepest for deepest in config.deepest_exits if not depths[0] <= deepest <= depths[-1]]
    if strange:
        raise UsageError(
            f"--K names {', '.join(map(str, strange))}, but the parent's exits are {', '.join(map(str, depths))}. Give "
            "depths from the shallowest to the deepest of them."
        )
    if config.train_split not in derived.manifest.splits:
        raise UsageError(
            f"The derived table {derived.digest} has the splits {', '.join(derived.manifest.splits)}, expected "
            f"{config.train_split!r} to fit on. Derive it, or name one with --set train_split=NAME."
        )
    if config.cost == "ms" and len(config.exit_ms) != len(depths):
        raise UsageError(
            f"Milliseconds are known for {len(config.exit_ms)} of the {len(depths)} exits. Measure them with "
            "`eco profile` and name its report with --profile, or give --exit-ms."
        )
    offers = tuple(
        tuple(depth for depth in depths if depth <= deepest) for deepest in config.deepest_exits or depths[-1:]
    )
    return Action(STAGE, SCHEMA_VERSION, config, inputs), derived, offers


def run(
    config: SweepConfig,
    inputs: Mapping[str, str],
    store: Store,
    runtime: Runtime,
    *,
    force: bool = False,
    names: Sequence[str] = (),
) -> Artifact[ReportManifest]:
    """Fit and score all gates, or return the sweep that is there.

    Args:
        config: The settings.
        inputs: Digests by role, see the module.
        store: Where the report goes.
        runtime: Where to run.
        force: Sweep even if the store has the result.
        names: Names for the result, beside ``report`` and ``sweep``.

    Raises:
        InterruptedRunError: A signal asked to stop.
        ArtifactError: The table is damaged.
        DataError: No image of the table has a defined quality.
        UsageError: The settings do not fit the table, or the store cannot be written.
    """
    action, derived, offers = plan(config, inputs, store)

    def work(folder: Path) -> tuple[ReportManifest, FileContents]:
        # torch is loaded only where something is computed; a result that is there is returned without it.
        return _sweep(action, config, derived, offers, runtime, folder)

    return run_or_reuse(
        action,
        ReportManifest,
        store,
        work,
        force=force,
        names=[NAME, *names],
        provenance={"threads": runtime.threads},
        world=runtime.world,
        stop=lambda: runtime.stop.requested,
    )


def _sweep(
    action: Action,
    config: SweepConfig,
    derived: Artifact[DerivedManifest],
    offers: Sequence[tuple[int, ...]],
    runtime: Runtime,
    folder: Path,
) -> tuple[ReportManifest, FileContents]:
    from ecocli.artifacts.derived_table import read_splits
    from ecocli.gates.fitter import GateFitter
    from ecocli.gates.splits import build_tables
    from ecocli.gates.verdict import verdict_json

    manifest = derived.manifest
    splits = read_splits(derived, (config.train_split, config.score_split), config.feature)
    tables = build_tables(config, {name: vars(table) for name, table in splits.items()}, manifest.exit_depths)
    fitter = GateFitter(tables.rows, config.loss, config.l2, config.folds, config.seed)
    rows: list[dict[str, Any]] = []
    controls: dict[str, JsonValue] = {}
    wanted = [(head, depths, beta) for head in config.heads for depths in offers for beta in sorted(config.betas)]
    arenas = {depths: tables.held_out.arena(depths, config.bootstrap_replicates, config.seed) for depths in offers}
    with runtime.progress.task("sweeping", len(wanted), unit="gate") as progress:
        for head, depths, beta in wanted:
            if runtime.stop.requested:
                raise InterruptedRunError(
                    f"Stopped by {runtime.stop.reason} after {len(rows)} of {len(wanted)} gates. The same command "
                    "starts the sweep again."
                )
            E = len(depths)
            gate = fitter.fit(head, E, beta)
            verdict = arenas[depths].judge(
                gate.choose(tables.held_out.features),
                beta,
                fitter.rows.majority(E, beta),
                own_cost=tables.gate_cost(E),
                own_gflops=tables.gate_gflops(E),
                draws=0,
            )
            rows.append(_row(gate, verdict, depths))
            controls[str(depths[-1])] = verdict_json(verdict, depths)["fixed"]
            progress.advance(1)
    summary: dict[str, JsonValue] = {
        "type": "sweep",
        "scored_on": tables.scored_on,
        "images": len(tables.held_out.features),
        "cost": config.cost,
        "exit_depths": list(manifest.exit_depths),
        "fixed": controls,
        "rows": _json_rows(rows),
    }
    report = ReportManifest(
        schema_version=action.schema_version,
        stage_config=action.stage_config,
        inputs=dict(action.inputs),
        dataset_fingerprints={},
        summary=summary,
    )
    return report, {"sweep.parquet": _write(rows, folder), "sweep.svg": _plot(rows, controls, tables.scored_on)}


def _row(gate: "FittedGate", verdict: "Verdict", depths: tuple[int, ...]) -> dict[str, Any]:
    best, majority = verdict.fixed[verdict.best_fixed], verdict.fixed[verdict.majority]
    return {
        "head": gate.head,
        "deepest_exit": depths[-1],
        "beta": gate.beta,
        "pq": verdict.gate.pq,
        "pq_low": verdict.pq_interval[0],
        "pq_high": verdict.pq_interval[1],
        "cost": verdict.gate.cost,
        "gflops": verdict.gate.gflops,
        "encoder_gflops": verdict.gate.encoder_gflops,
        "mean_depth": verdict.gate.mean_depth,
        "exit_shares": list(verdict.gate.exit_shares),
        "lead": verdict.lead,
        "lead_low": verdict.lead_interval[0],
        "lead_high": verdict.lead_interval[1],
        "blend_pq": float("nan") if verdict.blend is None else verdict.blend.pq,
        "random_pq": verdict.random.pq,
        "best_fixed_exit": depths[verdict.best_fixed],
        "best_fixed_pq": best.pq,
        "majority_exit": depths[verdict.majority],
        "majority_pq": majority.pq,
        "accuracy": verdict.accuracy,
        "majority_accuracy": verdict.majority_accuracy,
        "oracle_pq": verdict.oracle.pq,
        "oracle_gflops": verdict.oracle.gflops,
        "target_pq": verdict.utility_oracle.pq,
        "target_gflops": verdict.utility_oracle.gflops,
        "l2": gate.fit.l2,
        "evaluations": gate.fit.evaluations,
    }


def _json_rows(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    from ecocli.gates.verdict import number

    return [{key: number(v) if isinstance(v, float) else v for key, v in row.items()} for row in rows]


def _write(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    import pyarrow as pa

    from ecocli.artifacts.tables import ColumnDoc, document_columns, write_table

    path = folder / "sweep.parquet"
    table = pa.Table.from_pylist(_json_rows(rows))
    write_table(path, document_columns(table, {name: ColumnDoc(*doc) for name, doc in _DOCS.items()}))
    return path


def _plot(rows: Sequence[Mapping[str, Any]], fixed: Mapping[str, Any], scored_on: str) -> bytes:
    from ecocli.reports.sweep_plot import PlotPoint, draw_sweep

    def point(row: Mapping[str, Any], prefix: str = "", label: str = "") -> PlotPoint:
        pq, gflops = row[f"{prefix}pq"], row[f"{prefix}gflops"]
        low, high = (row["pq_low"], row["pq_high"]) if not prefix and "pq_low" in row else (pq, pq)
        return PlotPoint(gflops, pq, low, high, label)

    deepest = max(fixed, key=int)
    entries = fixed[deepest]
    series = dict.fromkeys((row["head"], row["deepest_exit"]) for row in rows)
    gates = [
        (f"{head} gate, exits to {depth}", [point(r) for r in rows if (r["head"], r["deepest_exit"]) == (head, depth)])
        for head, depth in series
    ]
    oracle = {row["beta"]: point(row, "target_") for row in rows if row["deepest_exit"] == int(deepest)}
    exits = [point(entry, label=f"exit {entry['exit_depth']}") for entry in entries]
    return draw_sweep(f"PQ and compute on {scored_on}", exits, gates, list(oracle.values()))
