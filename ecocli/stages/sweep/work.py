"""The work of ``sweep``: fits and scores all gates over one reading of the table, and draws them."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ecocli.artifacts.action import Action, Made
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import read_splits
from ecocli.artifacts.manifest import DerivedManifest, FileContents, SweepManifest
from ecocli.artifacts.summaries import MEASURES, ExitSummary, SweepRow, SweepSummary
from ecocli.artifacts.tables import ColumnDoc, document_columns, write_table
from ecocli.config.sweep import SweepConfig
from ecocli.errors import InterruptedRunError
from ecocli.gates.fitter import FittedGate, GateFitter
from ecocli.gates.splits import build_tables
from ecocli.gates.verdict import verdict_summary
from ecocli.metrics.controls import Verdict
from ecocli.reports.sweep_plot import PlotPoint, draw_sweep
from ecocli.runtime.context import Runtime

_DOCS = {
    "head": ("what the gate predicts", ""),
    "deepest_exit": ("deepest exit on offer, in encoder layers run", "layers"),
    "beta": ("price of one unit of cost in quality", "quality per unit of cost"),
    "pq": ("quality of the gate: PQ, of detections AP", "ratio 0..1"),
    "pq_low": ("lower end of its 95 % bootstrap interval", "ratio 0..1"),
    "pq_high": ("upper end of its 95 % bootstrap interval", "ratio 0..1"),
    "cost": ("mean cost of an image in the unit of the cost model", ""),
    "gflops": ("mean GFLOPs of an image, one multiply-add counted once", "GFLOPs"),
    "encoder_gflops": ("the pixel decoder's share of it", "GFLOPs"),
    "mean_depth": ("mean encoder layers run", "layers"),
    "exit_shares": ("share of the images at each exit on offer", "ratio 0..1"),
    "lead": ("quality less that of the best fixed mixture of equal GFLOPs, or equal ms where the cost is ms", "ratio"),
    "lead_low": ("lower end of its 95 % bootstrap interval", "ratio"),
    "lead_high": ("upper end of its 95 % bootstrap interval", "ratio"),
    "blend_pq": ("quality of that mixture", "ratio 0..1"),
    "random_pq": ("quality of a random gate of the same mixture", "ratio 0..1"),
    "best_fixed_exit": ("fixed exit of the best quality", "layers"),
    "best_fixed_pq": ("its quality", "ratio 0..1"),
    "majority_exit": ("target exit of most training images", "layers"),
    "majority_pq": ("its quality", "ratio 0..1"),
    "accuracy": ("share of the images on which the gate takes the target exit", "ratio 0..1"),
    "majority_accuracy": ("the same for the majority exit", "ratio 0..1"),
    "oracle_pq": ("quality of each image at its exit of best quality", "ratio 0..1"),
    "oracle_gflops": ("its mean GFLOPs", "GFLOPs"),
    "target_pq": ("quality of each image at its target exit: the oracle at this beta", "ratio 0..1"),
    "target_gflops": ("its mean GFLOPs", "GFLOPs"),
    "attainable_pq": (
        "quality where the truth about mirror images chooses, at the gate's cost; null without --mirror",
        "ratio 0..1",
    ),
    "attainable_gflops": ("its mean GFLOPs", "GFLOPs"),
    "reached": ("share of the attainable lead over the mixture that the gate has", "ratio"),
    "l2": ("regularisation strength chosen", ""),
    "evaluations": ("passes over the features of the final fit", ""),
}


def sweep(
    action: Action,
    config: SweepConfig,
    derived: Artifact[DerivedManifest],
    offers: Sequence[tuple[int, ...]],
    runtime: Runtime,
    folder: Path,
) -> Made[SweepManifest]:
    """Fit and score all gates."""

    manifest = derived.manifest
    splits = read_splits(derived, (config.train_split, config.score_split), config.feature)
    tables = build_tables(config, splits, manifest.exit_depths)
    fitter = GateFitter.of(config, tables.rows, manifest.exit_depths)
    rows: list[SweepRow] = []
    fixed: dict[str, tuple[ExitSummary, ...]] = {}
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
            fixed[str(depths[-1])] = verdict_summary(verdict, depths).fixed
            progress.advance(1)
    summary = SweepSummary(
        fitted_on=tables.fitted_on,
        scored_on=tables.scored_on,
        images=len(tables.held_out.features),
        cost=config.cost,
        exit_depths=manifest.exit_depths,
        fixed=fixed,
        rows=tuple(rows),
    )
    measure = MEASURES[derived.manifest.task]
    files: FileContents = {"sweep.parquet": _write(rows, folder), "sweep.svg": _plot(summary, measure)}
    return Made(SweepManifest(**action.recorded, task=derived.manifest.task, summary=summary), files)


def _row(gate: FittedGate, verdict: Verdict, depths: tuple[int, ...]) -> SweepRow:
    best, majority = verdict.fixed[verdict.best_fixed], verdict.fixed[verdict.majority]
    return SweepRow(
        head=gate.head,
        deepest_exit=depths[-1],
        beta=gate.beta,
        pq=verdict.gate.pq,
        pq_low=verdict.pq_interval[0],
        pq_high=verdict.pq_interval[1],
        cost=verdict.gate.cost,
        gflops=verdict.gate.gflops,
        encoder_gflops=verdict.gate.encoder_gflops,
        mean_depth=verdict.gate.mean_depth,
        exit_shares=verdict.gate.exit_shares,
        lead=verdict.lead,
        lead_low=verdict.lead_interval[0],
        lead_high=verdict.lead_interval[1],
        blend_pq=None if verdict.blend is None else verdict.blend.pq,
        random_pq=verdict.random.pq,
        best_fixed_exit=depths[verdict.best_fixed],
        best_fixed_pq=best.pq,
        majority_exit=depths[verdict.majority],
        majority_pq=majority.pq,
        accuracy=verdict.accuracy,
        majority_accuracy=verdict.majority_accuracy,
        oracle_pq=verdict.oracle.pq,
        oracle_gflops=verdict.oracle.gflops,
        target_pq=verdict.utility_oracle.pq,
        target_gflops=verdict.utility_oracle.gflops,
        attainable_pq=None if verdict.attainable is None else verdict.attainable.pq,
        attainable_gflops=None if verdict.attainable is None else verdict.attainable.gflops,
        reached=verdict.reached,
        l2=gate.fit.l2,
        evaluations=gate.fit.evaluations,
    )


def _write(rows: Sequence[SweepRow], folder: Path) -> Path:

    path = folder / "sweep.parquet"
    table = pa.Table.from_pylist([row.model_dump() for row in rows])
    write_table(path, document_columns(table, {name: ColumnDoc(*doc) for name, doc in _DOCS.items()}))
    return path


def _plot(summary: SweepSummary, measure: str) -> bytes:
    rows = summary.rows
    deepest = max(summary.fixed, key=int)
    series = dict.fromkeys((row.head, row.deepest_exit) for row in rows)
    gates = [
        (
            f"{head} gate, exits to {depth}",
            [
                PlotPoint(_known(r.gflops), _known(r.pq), _known(r.pq_low), _known(r.pq_high), "")
                for r in rows
                if (r.head, r.deepest_exit) == (head, depth)
            ],
        )
        for head, depth in series
    ]
    oracle = {row.beta: _point(row.target_gflops, row.target_pq) for row in rows if row.deepest_exit == int(deepest)}
    exits = [_point(exit_.gflops, exit_.pq, f"exit {exit_.exit_depth}") for exit_ in summary.fixed[deepest]]
    title, attainable = (
        f"{measure} and compute on {summary.scored_on}",
        [r for r in rows if r.attainable_pq is not None],
    )
    reached = [_point(r.attainable_gflops, r.attainable_pq) for r in attainable]
    return draw_sweep(title, measure, exits, gates, list(oracle.values()), reached)


def _point(gflops: float | None, pq: float | None, label: str = "") -> PlotPoint:
    return PlotPoint(_known(gflops), _known(pq), _known(pq), _known(pq), label)


def _known(value: float | None) -> float:
    return float("nan") if value is None else value
