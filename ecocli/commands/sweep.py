"""``eco sweep``: gates over beta, K and head from one table; prints the trade-off, and can write plot and Parquet."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rich.table import Table

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import SweepManifest
from ecocli.artifacts.summaries import MEASURES, SweepSummary
from ecocli.commands import options
from ecocli.commands._profiled_ms import read_exit_ms
from ecocli.commands.common import Shown, make_runtime, open_store, resolve, resolve_input, run_stage
from ecocli.commands.options import option
from ecocli.commands.tables import make_table
from ecocli.config.sweep import SweepConfig
from ecocli.errors import UsageError
from ecocli.reports.numbers import plain, points, points_note, shares
from ecocli.runtime.files import check_output, open_output, write_bytes
from ecocli.stages import sweep as stage

_ANOTHER_FOLDER = "name another folder with --out"


def sweep(
    beta: Annotated[
        list[str] | None, option("--beta", "B,B,..", "Prices of one unit of cost.  [default: the paper's]")
    ] = None,
    deepest_exits: Annotated[
        list[str] | None, option("--K", "K,K,..", "Deepest exits on offer.  [default: the parent's]")
    ] = None,
    heads: Annotated[
        list[str] | None, option("--head", "class,quality", "Kinds of head.  [default: the recipe's]")
    ] = None,
    recipe: options.Recipe = None,
    objective: options.Objective = None,
    loss: options.Loss = None,
    cost: options.Cost = None,
    feature: options.Feature = None,
    derived: options.Derived = None,
    profile: options.Profile = None,
    exit_ms: options.ExitMs = None,
    out: Annotated[Path | None, option("--out", "DIR", "Also write sweep.parquet and sweep.svg there.")] = None,
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
    """Fit and score gates over beta and K from the derived tables alone, and print the trade-off.

    Each gate is printed beside the best fixed mixture of equal cost, the best fixed exit and the oracle.
    """
    if out is not None:
        check_output(out, _ANOTHER_FOLDER)
    opened = open_store(store)
    with make_runtime("cpu", threads) as runtime:
        inputs = {"derived": resolve_input(opened, "derived", derived, runtime.log)}
        resolved = resolve(
            SweepConfig,
            config_path=config,
            flags={
                "betas": _numbers("--beta", beta, float) if beta else None,
                "deepest_exits": _numbers("--K", deepest_exits, int) if deepest_exits else None,
                "heads": _words(heads) if heads else None,
                "recipe": recipe,
                "objective": objective,
                "loss": loss,
                "cost": cost,
                "feature": feature,
                "exit_ms": read_exit_ms(opened, inputs["derived"], profile, exit_ms),
                "seed": seed,
            },
            assignments=assignments,
        )

        def show(report: Artifact[SweepManifest]) -> Shown:
            runtime.log.info("%s %s", report.manifest.kind, report.digest)
            if out is not None and runtime.world.is_main:
                _copy(report, out)
            summary = report.manifest.summary
            return Shown(
                {"digest": report.digest, **summary.model_dump(mode="json")},
                table=_table(summary, MEASURES[report.manifest.task]),
            )

        plan = stage.plan(resolved, inputs, opened, runtime)
        run_stage(plan, opened, runtime, force=force, names=name, dry_run=dry_run, as_json=as_json, show=show)


def _words(texts: Sequence[str]) -> list[str]:
    """Take a list apart that is separated by commas or blanks, or given by repeating the option."""
    return [word for text in texts for word in re.split(r"[,\s]+", text.strip()) if word]


def _numbers(option: str, texts: Sequence[str], kind: type[int] | type[float]) -> list[float | int]:
    try:
        return [kind(word) for word in _words(texts)]
    except ValueError as error:
        example = "4,5,6" if kind is int else "0,0.0005,0.02"
        raise UsageError(f"{option} is {' '.join(texts)!r}, expected numbers such as {example}.") from error


def _copy(report: Artifact[SweepManifest], folder: Path) -> None:
    open_output(folder, _ANOTHER_FOLDER)
    for name in ("sweep.parquet", "sweep.svg"):
        write_bytes(folder / name, report.path_of(name).read_bytes(), folder, otherwise=_ANOTHER_FOLDER)


def _table(summary: SweepSummary, measure: str) -> Table:
    headings = ("beta", measure, "GFLOPs", "encoder", "depth", "% per exit", "hits %", "majority %")
    controls = (f"mixture {measure}", "lead", "95 % interval", "best fixed", f"oracle {measure}", "oracle GFLOPs")
    mirrored = any(row.attainable_pq is not None for row in summary.rows)
    further = (f"attainable {measure}", "reached %") if mirrored else ()
    table = make_table(
        f"Fitted on {summary.fitted_on}\nScored on {summary.scored_on}, {summary.images:,} images",
        ["gate"],
        (*headings, *controls, *further),
        f"{points_note(measure)} Mixture: the best blend of at most two fixed exits of equal {summary.unit}, without "
        f"looking at the image; lead: the gate's {measure} less that. Oracle: each image at its target exit."
        + (" Attainable: what the truth about the mirror images would choose at the gate's cost." if mirrored else ""),
    )
    previous = None
    for row in summary.rows:
        series = (row.head, row.deepest_exit)
        if previous is not None and series != previous:
            table.add_section()
        previous = series
        table.add_row(
            f"{row.head}, K = {row.deepest_exit}",
            f"{row.beta:g}",
            points(row.pq),
            plain(row.gflops),
            plain(row.encoder_gflops),
            f"{row.mean_depth:.2f}",
            shares(row.exit_shares),
            points(row.accuracy, 1),
            points(row.majority_accuracy, 1),
            points(row.blend_pq),
            points(row.lead, signed=True),
            f"{points(row.lead_low, signed=True)} to {points(row.lead_high, signed=True)}",
            f"exit {row.best_fixed_exit}: {points(row.best_fixed_pq)}",
            points(row.target_pq),
            plain(row.target_gflops),
            *((points(row.attainable_pq), points(row.reached, 0)) if mirrored else ()),
        )
    return table
