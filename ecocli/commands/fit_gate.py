"""``eco fit-gate``: Step C of the recipe; prints the gate's digest, and the gate beside its controls on stderr."""

from typing import Annotated

import typer

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import check_tables
from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.summaries import MEASURES
from ecocli.commands import options
from ecocli.commands._gate_tables import controls_table, head_table, recipe_table, trade_off_table
from ecocli.commands._profiled_ms import read_exit_ms
from ecocli.commands.common import Shown, make_runtime, open_store, resolve, resolve_input, run_stage, show_digest
from ecocli.commands.options import option
from ecocli.commands.tables import write_to_stderr
from ecocli.config.fit_gate import FitGateConfig
from ecocli.runtime.context import Runtime
from ecocli.stages import fit_gate as stage

BetaOption = Annotated[
    float | None, option("--beta", "B", "Price of one unit of cost in PQ (0..1), such as 0.0005 per layer.")
]


def fit_gate(
    beta: BetaOption = None,
    deepest_exit: Annotated[
        int | None, option("--K", "K", "Deepest exit on offer.  [default: the parent's deepest]")
    ] = None,
    target_gflops: Annotated[
        float | None, option("--target-gflops", "G", "Find beta: at most G GFLOPs per image.")
    ] = None,
    target_ms: Annotated[
        float | None, option("--target-ms", "M", "Find beta: at most M ms per image, by --profile.")
    ] = None,
    max_pq_drop: Annotated[
        float | None, option("--max-pq-drop", "D", "Find beta: lose at most D points of PQ to the deepest exit.")
    ] = None,
    head: Annotated[
        str | None,
        option(
            "--head",
            "class|quality",
            "Predict the exit, or the quality at each, so that beta can change later.  [default: the recipe's]",
        ),
    ] = None,
    recipe: options.Recipe = None,
    objective: options.Objective = None,
    loss: options.Loss = None,
    cost: options.Cost = None,
    feature: options.Feature = None,
    compare_heads: Annotated[
        bool, typer.Option("--compare-heads", help="Also score the other head and a small MLP.")
    ] = False,
    derived: options.Derived = None,
    parent: Annotated[str | None, option("--parent", "PARENT", "Make sure that the tables are this parent's.")] = None,
    profile: options.Profile = None,
    exit_ms: options.ExitMs = None,
    l2: Annotated[float | None, option("--l2", "L2", "Regularisation.  [default: chosen by cross-validation]")] = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    name: options.Name = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Fit the gate (Step C) from the derived tables alone, and print its digest.

    Give a price of compute (--beta) or a budget (--target-gflops, --target-ms, --max-pq-drop).
    """
    opened = open_store(store)
    with make_runtime("cpu", threads) as runtime:
        inputs = {"derived": resolve_input(opened, "derived", derived, runtime.log)}
        resolved = resolve(
            FitGateConfig,
            config_path=config,
            flags={
                "beta": beta,
                "deepest_exit": deepest_exit,
                "target_gflops": target_gflops,
                "target_ms": target_ms,
                "max_pq_drop": max_pq_drop,
                "head": head,
                "recipe": recipe,
                "objective": objective,
                "loss": loss,
                "cost": cost,
                "feature": feature,
                "compare_heads": compare_heads or None,
                "exit_ms": read_exit_ms(opened, inputs["derived"], profile, exit_ms),
                "l2": l2,
                "seed": seed,
            },
            assignments=assignments,
        )
        plan = stage.plan(resolved, inputs, opened, runtime)
        if parent is not None:
            check_tables(opened, inputs["derived"], resolve_input(opened, "parent", parent, runtime.log))

        def show(gate: Artifact[GateManifest]) -> Shown:
            _show(gate.manifest, resolved.beta is None, runtime)
            return show_digest(gate)

        run_stage(plan, opened, runtime, force=force, names=name, dry_run=dry_run, as_json=as_json, show=show)


def _show(manifest: GateManifest, searched: bool, runtime: Runtime) -> None:
    """Show on stderr the trade-off that was chosen from, the gate beside its controls, and what to beware of."""
    if not runtime.world.is_main:
        return
    metrics = manifest.metrics
    assert metrics is not None  # A gate that was fitted has them.
    if searched:
        write_to_stderr(trade_off_table(metrics.trade_off, manifest.beta, MEASURES[manifest.task], metrics.budget))
    write_to_stderr(controls_table(metrics, manifest.exit_depths, manifest.cost, MEASURES[manifest.task]))
    write_to_stderr(recipe_table(metrics, MEASURES[manifest.task]))
    if metrics.heads is not None:
        write_to_stderr(head_table(metrics.heads, manifest.cost, metrics.unit, MEASURES[manifest.task]))
    for warning in metrics.warnings:
        runtime.log.warning("%s", warning)
