"""The work of ``fit-gate``: fits, searches budgets, and scores the gate on held-out images."""

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from ecocli.artifacts.action import Action, Made
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import read_splits
from ecocli.artifacts.lineage import GATE_FILE
from ecocli.artifacts.manifest import DerivedManifest, GateManifest
from ecocli.artifacts.summaries import (
    MEASURES,
    BudgetSummary,
    FitSummary,
    GateMetrics,
    HeadSummary,
    OutOfFoldSummary,
    RecipeSummary,
    TradeOffStep,
)
from ecocli.artifacts.tensors import save_tensors
from ecocli.config.fit_gate import GATE_RECIPES, FitGateConfig
from ecocli.errors import UsageError
from ecocli.gates.budget import Budget, Found, GateSearch
from ecocli.gates.fitter import FittedGate, GateFitter, OutOfFoldLead, choose
from ecocli.gates.mlp_head import fit_mlp
from ecocli.gates.splits import GateTables, build_tables
from ecocli.gates.verdict import verdict_summary, warnings_of
from ecocli.losses.gate import target_exit_indices
from ecocli.metrics.controls import Verdict


@dataclass(frozen=True)
class Candidate:
    """The gate of one recipe.

    Attributes:
        config: The settings under this recipe.
        found: The gate, and what a search for it saw.
        verdict: The gate beside its controls on held-out images.
        out_of_fold: Its lead, or that of the gate that gave way to the blend.
    """

    config: FitGateConfig
    tables: GateTables
    fitter: GateFitter
    found: Found
    verdict: Verdict
    out_of_fold: OutOfFoldLead | None

    @property
    def safe_lead(self) -> float:
        """The lead out of fold less its standard error; 0 for a blend, which beats a gate that does not pay."""
        if self.found.gate.blind:
            return 0.0
        return -math.inf if self.out_of_fold is None else self.out_of_fold.lead - self.out_of_fold.deviation

    @property
    def summary(self) -> RecipeSummary:
        """What is recorded of it."""
        seen = self.out_of_fold
        return RecipeSummary(
            pq=self.verdict.gate.pq,
            gflops=self.verdict.gate.gflops,
            lead=self.verdict.lead,
            lead_interval=self.verdict.lead_interval,
            out_of_fold=None if seen is None else OutOfFoldSummary(**asdict(seen)),
            blend=self.found.gate.blind,
        )


def fit(
    action: Action, config: FitGateConfig, derived: Artifact[DerivedManifest], depths: tuple[int, ...]
) -> Made[GateManifest]:
    """Fit the gate that is asked for, and score it beside its controls and beside the other recipes' gates."""
    others = [
        config.under(name)
        for name, recipe in GATE_RECIPES.items()
        if name != config.recipe and recipe["feature"] in derived.manifest.feature_sizes
    ]
    candidates: list[Candidate] = []
    refused: list[UsageError] = []
    for one in (config, *others):
        try:
            candidates.append(_candidate(one, derived, depths))
        except UsageError as error:  # a loss of quality that one recipe cannot keep to may be another's
            refused.append(error)
    if not candidates:
        raise refused[0]
    taken = candidates[0]
    if config.beta is None:  # a budget is a budget, whichever recipe keeps to it
        taken = max(candidates, key=lambda one: one.safe_lead)
    gate, tables, fitted = taken.found.gate, taken.tables, taken.found.gate.fit
    images = len(tables.held_out.features)
    metrics = GateMetrics(
        **dict(verdict_summary(taken.verdict, depths)),
        scored_on=tables.scored_on,
        images=images,
        undefined_images=int((~tables.held_out.usable).sum()),
        warnings=tuple(warnings_of(taken.verdict, depths, images, gate.blind, MEASURES[derived.manifest.task])),
        fit=FitSummary(
            fitted_on=tables.fitted_on,
            training_images=len(tables.rows.split.features),
            left_out_images=tables.left_out,
            features=tables.rows.split.features.shape[1],
            l2=fitted.l2,
            l2_path=fitted.path,
            gradient_norm=fitted.gradient_norm,
            evaluations=fitted.evaluations,
            offset=gate.price if gate.head == "class" else 0.0,
        ),
        recipe=taken.config.recipe,
        recipes={one.config.recipe: one.summary for one in candidates},
        budget=None if taken.found.standing is None else BudgetSummary(**asdict(taken.found.standing)),
        trade_off=tuple(TradeOffStep(beta=s.beta, value=s.value, pq=s.pq, gflops=s.gflops) for s in taken.found.seen),
        heads=_compare(taken, depths) if config.compare_heads else None,
    )
    linear = gate.linear
    state = {"linear.weight": linear.weight.float(), "linear.bias": linear.bias.float()}
    manifest = GateManifest(
        **action.recorded,
        task=derived.manifest.task,
        exit_depths=depths,
        beta=gate.beta,
        feature=taken.config.feature,
        metrics=metrics,
        head=taken.config.head,
        cost=config.cost,
        exit_costs=tuple(gate.exit_costs.tolist()),
    )
    return Made(manifest, {GATE_FILE: save_tensors(state)})


def _candidate(config: FitGateConfig, derived: Artifact[DerivedManifest], depths: tuple[int, ...]) -> Candidate:
    """Fit one recipe's gate; where it does not lead out of fold, and the recipe looks there, take the blend instead."""
    splits = read_splits(derived, (config.train_split, config.score_split), config.feature)
    tables = build_tables(config, splits, derived.manifest.exit_depths)
    fitter = GateFitter.of(config, tables.rows, derived.manifest.exit_depths)
    found = _settle(config, tables, fitter, depths)
    out_of_fold = fitter.out_of_fold(found.gate, tables.gate_gflops(len(depths)))
    if config.select == "lead" and out_of_fold is not None and not out_of_fold.pays:
        found = _settle(config, tables, replace(fitter, blind=True), depths)
    verdict = _judge(found.gate, tables, fitter, depths, config)
    return Candidate(config, tables, fitter, found, verdict, out_of_fold)


def _settle(config: FitGateConfig, tables: GateTables, fitter: GateFitter, depths: tuple[int, ...]) -> Found:
    """Fit the gate of a beta, or search the one of a budget."""
    E, held_out = len(depths), tables.held_out
    if config.beta is not None:
        return Found(fitter.fit(config.head, E, config.beta))
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
    deepest = held_out.counts.assignment_quality(held_out.counts.fixed_assignment(held_out.counts.num_exits - 1))
    return search.within_pq_drop(deepest, config.max_pq_drop / 100.0)


def _judge(
    gate: FittedGate, tables: GateTables, fitter: GateFitter, depths: tuple[int, ...], config: FitGateConfig
) -> Verdict:
    E, held_out = len(depths), tables.held_out
    return held_out.arena(depths, config.bootstrap_replicates, config.seed).judge(
        gate.choose(held_out.features),
        gate.beta,
        fitter.rows.majority(E, gate.beta),
        own_cost=tables.gate_cost(E),
        own_gflops=tables.gate_gflops(E),
    )


def _compare(taken: Candidate, depths: tuple[int, ...]) -> dict[str, HeadSummary]:
    """Score both heads and a small MLP at the gate's beta; the lead over a blend of equal cost compares them."""
    config, tables, fitter, beta = taken.config, taken.tables, taken.fitter, taken.found.gate.beta
    E, held_out = len(depths), tables.held_out
    raw = held_out.features
    targets = target_exit_indices(fitter.rows.utilities(E, beta))
    mlp = fit_mlp(fitter.rows.features, targets, E, seed=config.seed)
    chosen = {
        "class": fitter.fit("class", E, beta).choose(raw),
        "quality": fitter.fit("quality", E, beta).choose(raw),
        "mlp": choose(mlp.scores(fitter.rows.inputs(raw))),
    }
    arena = held_out.arena(depths, config.bootstrap_replicates, config.seed)
    compared = {}
    for name, assignment in chosen.items():
        verdict = arena.judge(
            assignment, beta, 0, own_cost=tables.gate_cost(E), own_gflops=tables.gate_gflops(E), draws=0
        )
        compared[name] = HeadSummary(
            pq=verdict.gate.pq,
            cost=verdict.gate.cost,
            gflops=verdict.gate.gflops,
            accuracy=verdict.accuracy,
            lead=verdict.lead,
            lead_interval=verdict.lead_interval,
        )
    return compared
