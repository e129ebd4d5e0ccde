"""The work of ``fit-gate``: fits, searches budgets, and scores the gate on held-out images."""

from typing import Any

import numpy as np

from ecocli.artifacts.action import Action, Made
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import read_splits
from ecocli.artifacts.lineage import GATE_FILE
from ecocli.artifacts.manifest import DerivedManifest, GateManifest
from ecocli.artifacts.summaries import FitSummary, GateMetrics, HeadSummary, TradeOffStep
from ecocli.artifacts.tensors import save_tensors
from ecocli.config.fit_gate import FitGateConfig
from ecocli.gates.budget import Budget, Found, GateSearch
from ecocli.gates.fitter import FittedGate, GateFitter, choose
from ecocli.gates.mlp_head import fit_mlp
from ecocli.gates.splits import GateTables, build_tables
from ecocli.gates.verdict import verdict_summary, warnings_of
from ecocli.losses.gate import target_exit_indices
from ecocli.metrics.assignment import assignment_pq


def fit(
    action: Action, config: FitGateConfig, derived: Artifact[DerivedManifest], depths: tuple[int, ...]
) -> Made[GateManifest]:
    """Fit the gate that is asked for, and score it beside its controls."""
    splits = read_splits(derived, (config.train_split, config.score_split), config.feature)
    tables = build_tables(config, {name: vars(table) for name, table in splits.items()}, derived.manifest.exit_depths)
    fitter = GateFitter(tables.rows, config.loss, config.l2, config.folds, config.seed)
    found = _settle(config, tables, fitter, depths)
    gate, fitted = found.gate, found.gate.fit
    metrics = GateMetrics(
        **_judge(gate, tables, fitter, depths, config),
        fit=FitSummary(
            training_images=len(tables.rows.raw),
            left_out_images=tables.left_out,
            features=tables.rows.raw.shape[1],
            l2=fitted.l2,
            l2_path=fitted.path,
            gradient_norm=fitted.gradient_norm,
            evaluations=fitted.evaluations,
            offset=gate.price if gate.head == "class" else 0.0,
        ),
        trade_off=tuple(TradeOffStep(beta=s.beta, value=s.value, pq=s.pq, gflops=s.gflops) for s in found.seen),
        heads=_compare(gate, tables, fitter, depths, config) if config.compare_heads else None,
    )
    linear = gate.linear
    state = {"linear.weight": linear.weight.float(), "linear.bias": linear.bias.float()}
    manifest = GateManifest(
        **action.recorded,
        exit_depths=depths,
        beta=gate.beta,
        feature=config.feature,
        metrics=metrics,
        head=config.head,
        cost=config.cost,
        exit_costs=tuple(gate.exit_costs.tolist()),
    )
    return Made(manifest, {GATE_FILE: save_tensors(state)})


def _settle(config: FitGateConfig, tables: GateTables, fitter: GateFitter, depths: tuple[int, ...]) -> Found:
    """Fit the gate of a beta, or search the one of a budget."""

    E, held_out = len(depths), tables.held_out
    if config.beta is not None:
        return Found(fitter.fit(config.head, E, config.beta), ())
    arena = held_out.arena(depths, config.bootstrap_replicates, config.seed)
    search = GateSearch(fitter, config.head, arena, held_out.features)
    if config.target_gflops is not None:
        own = tables.gate_gflops(E)
        return search.within_budget(
            Budget("--target-gflops", config.target_gflops, "GFLOPs", held_out.gflops[:, :E] + own)
        )
    if config.target_ms is not None:
        times = np.broadcast_to(np.array(config.exit_ms[:E]), held_out.gflops[:, :E].shape)
        return search.within_budget(Budget("--target-ms", config.target_ms, "ms", times))
    assert config.max_pq_drop is not None  # the configuration has exactly one aim
    deepest = assignment_pq(held_out.counts, held_out.counts.fixed_assignment(held_out.counts.num_exits - 1))
    return search.within_pq_drop(deepest, config.max_pq_drop / 100.0)


def _judge(
    gate: FittedGate,
    tables: GateTables,
    fitter: GateFitter,
    depths: tuple[int, ...],
    config: FitGateConfig,
) -> dict[str, Any]:

    E, held_out = len(depths), tables.held_out
    verdict = held_out.arena(depths, config.bootstrap_replicates, config.seed).judge(
        gate.choose(held_out.features),
        gate.beta,
        fitter.rows.majority(E, gate.beta),
        own_cost=tables.gate_cost(E),
        own_gflops=tables.gate_gflops(E),
    )
    return {
        **dict(verdict_summary(verdict, depths)),
        "scored_on": tables.scored_on,
        "images": len(held_out.features),
        "undefined_images": int((~held_out.usable).sum()),
        "warnings": tuple(warnings_of(verdict, depths, len(held_out.features))),
    }


def _compare(
    gate: FittedGate,
    tables: GateTables,
    fitter: GateFitter,
    depths: tuple[int, ...],
    config: FitGateConfig,
) -> dict[str, HeadSummary]:
    """Score both heads and a small MLP at the gate's beta; the lead over a blend of equal cost compares them."""

    E, held_out = len(depths), tables.held_out
    raw = held_out.features
    targets = target_exit_indices(fitter.rows.utilities(E, gate.beta))
    mlp = fit_mlp(fitter.rows.features, targets, E, seed=config.seed)
    chosen = {
        "class": fitter.fit("class", E, gate.beta).choose(raw),
        "quality": fitter.fit("quality", E, gate.beta).choose(raw),
        "mlp": choose(mlp.scores(raw)),
    }
    arena = held_out.arena(depths, config.bootstrap_replicates, config.seed)
    compared = {}
    for name, assignment in chosen.items():
        verdict = arena.judge(assignment, gate.beta, 0, own_cost=tables.gate_cost(E), draws=0)
        compared[name] = HeadSummary(
            pq=verdict.gate.pq,
            cost=verdict.gate.cost,
            gflops=verdict.gate.gflops,
            accuracy=verdict.accuracy,
            lead=verdict.lead,
            lead_interval=verdict.lead_interval,
        )
    return compared
