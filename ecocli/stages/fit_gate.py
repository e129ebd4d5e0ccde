"""Fitting of a gate from the derived table alone: no images and no network.

Input: ``derived``. File: ``gate.safetensors`` with ``linear.weight`` [E, D] and ``linear.bias`` [E], everything folded
in: feature standardisation, and beta or the offset that meets a budget. The manifest's metrics hold the gate beside
its controls, scored on held-out images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from ecocli.artifacts.action import Action, run_or_reuse
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import DerivedManifest, FileContents, GateManifest
from ecocli.artifacts.store import Store
from ecocli.config.fit_gate import FitGateConfig
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.context import Runtime

if TYPE_CHECKING:
    from ecocli.gates.budget import Found
    from ecocli.gates.fitter import FittedGate, GateFitter
    from ecocli.gates.splits import GateTables

STAGE = "fit-gate"
SCHEMA_VERSION = 1


def plan(
    config: FitGateConfig, inputs: Mapping[str, str], store: Store
) -> tuple[Action, Artifact[DerivedManifest], tuple[int, ...]]:
    """Say exactly what is asked, on which table, and over which exits.

    Raises:
        ArtifactError: The derived table is damaged.
        UsageError: The settings do not fit the table.
    """
    derived = store.get(inputs["derived"], DerivedManifest)
    manifest = derived.manifest
    depths = offered_exits(manifest.exit_depths, config.deepest_exit)
    if config.train_split not in manifest.splits:
        raise UsageError(
            f"The derived table {derived.digest} has the splits {', '.join(manifest.splits)}, expected "
            f"{config.train_split!r} to fit on. Derive it, or name one with --set train_split=NAME."
        )
    needs_ms = config.cost == "ms" or config.target_ms is not None
    if needs_ms and len(config.exit_ms) != len(manifest.exit_depths):
        raise UsageError(
            f"Milliseconds are known for {len(config.exit_ms)} of the {len(manifest.exit_depths)} exits. Measure them "
            "with `eco profile` and name its report with --profile, or give --exit-ms."
        )
    return Action(STAGE, SCHEMA_VERSION, config, inputs), derived, depths


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


def check_parent(derived: Artifact[DerivedManifest], parent: str) -> None:
    """Make sure that the tables were derived from this parent.

    Raises:
        ArtifactError: They were not.
    """
    origin = derived.manifest.inputs.get("parent")
    if origin != parent:
        raise ArtifactError(
            f"The tables {derived.digest} were derived from the parent {origin}, not from {parent}. Name the tables of "
            "this parent with --derived, or derive them with `eco derive`."
        )


def run(
    config: FitGateConfig,
    inputs: Mapping[str, str],
    store: Store,
    runtime: Runtime,
    *,
    force: bool = False,
    names: Sequence[str] = (),
) -> Artifact[GateManifest]:
    """Fit a gate, or return the one that is there.

    Args:
        config: The settings.
        inputs: Digests by role, see the module.
        store: Where the gate goes.
        runtime: Where to run.
        force: Fit even if the store has the result.
        names: Names for the result, beside ``gate``.

    Raises:
        ArtifactError: The table is damaged.
        DataError: No image of the table has a defined quality.
        UsageError: The settings do not fit the table, a budget is not feasible, or the store cannot be written.
    """
    action, derived, depths = plan(config, inputs, store)

    def work(_folder: Path) -> tuple[GateManifest, FileContents]:
        # torch is loaded only where something is computed; a result that is there is returned without it.
        return _fit(action, config, derived, depths, runtime)

    return run_or_reuse(
        action,
        GateManifest,
        store,
        work,
        force=force,
        names=names,
        provenance={"threads": runtime.threads},
        world=runtime.world,
        stop=lambda: runtime.stop.requested,
    )


def _fit(
    action: Action,
    config: FitGateConfig,
    derived: Artifact[DerivedManifest],
    depths: tuple[int, ...],
    runtime: Runtime,
) -> tuple[GateManifest, FileContents]:
    from ecocli.artifacts.derived_table import read_splits
    from ecocli.artifacts.tensors import save_tensors
    from ecocli.gates.fitter import GateFitter
    from ecocli.gates.splits import build_tables
    from ecocli.gates.verdict import number

    splits = read_splits(derived, (config.train_split, config.score_split), config.feature)
    tables = build_tables(config, {name: vars(table) for name, table in splits.items()}, derived.manifest.exit_depths)
    fitter = GateFitter(tables.rows, config.loss, config.l2, config.folds, config.seed)
    found = _settle(config, tables, fitter, depths)
    gate, fit = found.gate, found.gate.fit
    metrics: dict[str, JsonValue] = {
        **_judge(gate, tables, fitter, depths, config),
        "fit": {
            "training_images": len(tables.rows.raw),
            "left_out_images": tables.left_out,
            "features": tables.rows.raw.shape[1],
            "l2": fit.l2,
            "l2_path": [list(step) for step in fit.path],
            "gradient_norm": fit.gradient_norm,
            "evaluations": fit.evaluations,
            "offset": gate.price if gate.head == "class" else 0.0,
        },
        "trade_off": [
            {"beta": s.beta, "value": number(s.value), "pq": number(s.pq), "gflops": number(s.gflops)}
            for s in found.seen
        ],
    }
    if config.compare_heads:
        metrics["heads"] = _compare(gate, tables, fitter, depths, config)
    linear = gate.linear
    state = {"linear.weight": linear.weight.float(), "linear.bias": linear.bias.float()}
    manifest = GateManifest(
        schema_version=action.schema_version,
        stage_config=action.stage_config,
        inputs=dict(action.inputs),
        dataset_fingerprints={},
        exit_depths=depths,
        beta=gate.beta,
        feature=config.feature,
        metrics=metrics,
        head=config.head,
        cost=config.cost,
        exit_costs=tuple(gate.exit_costs.tolist()),
    )
    return manifest, {"gate.safetensors": save_tensors(state)}


def _settle(config: FitGateConfig, tables: "GateTables", fitter: "GateFitter", depths: tuple[int, ...]) -> "Found":
    """Fit the gate of a beta, or search the one of a budget."""
    import numpy as np

    from ecocli.gates.budget import Budget, Found, GateSearch
    from ecocli.metrics.assignment import assignment_pq

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
    gate: "FittedGate",
    tables: "GateTables",
    fitter: "GateFitter",
    depths: tuple[int, ...],
    config: FitGateConfig,
) -> dict[str, JsonValue]:
    from ecocli.gates.verdict import verdict_json, warnings_of

    E, held_out = len(depths), tables.held_out
    verdict = held_out.arena(depths, config.bootstrap_replicates, config.seed).judge(
        gate.choose(held_out.features),
        gate.beta,
        fitter.rows.majority(E, gate.beta),
        own_cost=tables.gate_cost(E),
        own_gflops=tables.gate_gflops(E),
    )
    warnings: list[JsonValue] = list(warnings_of(verdict, depths, len(held_out.features)))
    return {
        "scored_on": tables.scored_on,
        "images": len(held_out.features),
        "undefined_images": int((~held_out.usable).sum()),
        **verdict_json(verdict, depths),
        "warnings": warnings,
    }


def _compare(
    gate: "FittedGate",
    tables: "GateTables",
    fitter: "GateFitter",
    depths: tuple[int, ...],
    config: FitGateConfig,
) -> dict[str, JsonValue]:
    """Score both heads and a small MLP at the gate's beta; the lead over a blend of equal cost compares them."""
    from ecocli.gates.fitter import choose
    from ecocli.gates.mlp_head import fit_mlp
    from ecocli.gates.verdict import number
    from ecocli.losses.gate import target_exit_indices

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
    compared: dict[str, JsonValue] = {}
    for name, assignment in chosen.items():
        verdict = arena.judge(assignment, gate.beta, 0, own_cost=tables.gate_cost(E), draws=0)
        compared[name] = {
            "pq": number(verdict.gate.pq),
            "cost": number(verdict.gate.cost),
            "gflops": number(verdict.gate.gflops),
            "accuracy": number(verdict.accuracy),
            "lead": number(verdict.lead),
            "lead_interval": [number(end) for end in verdict.lead_interval],
        }
    return compared
