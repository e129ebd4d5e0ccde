"""``eco eval``: a parent and its gate beside their controls; prints a table."""

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import EvaluationManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.summaries import EvaluationRow, EvaluationSummary
from ecocli.commands import options
from ecocli.commands._exported import check_engine, inputs_of_graphs, open_graphs
from ecocli.commands._parent_dataset import parent_dataset_preset
from ecocli.commands.common import (
    Shown,
    make_runtime,
    open_store,
    plan_on_data,
    resolve,
    resolve_input,
    run_stage,
)
from ecocli.commands.options import option
from ecocli.commands.tables import make_table
from ecocli.config.evaluate import EvaluateConfig
from ecocli.config.rules import RULES
from ecocli.errors import ArtifactError, UsageError
from ecocli.reports.numbers import interval, mixture, plain, points, reached_text, shares
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import check_output, open_output, write_bytes
from ecocli.stages import evaluate as stage
from ecocli.tasks.registry import task_named, task_of
from ecocli.tasks.task import Task

if TYPE_CHECKING:
    import logging


_ANOTHER_FOLDER = "name another folder with --predictions"
_METRICS = ("miou", "ap")
_OFFICIAL = {
    "panopticapi": "It is not on PyPI: pip install git+https://github.com/cocodataset/panopticapi",
    "pycocotools": "Pip install pycocotools",
}
"""Packages that `--check-with` names, and how to have them."""


def evaluate(
    parent: Annotated[str | None, option("--parent", "PARENT", "Parent to evaluate.  [default: the latest]")] = None,
    gate: Annotated[str | None, option("--gate", "GATE", "Gate that chooses the exits.  [default: the latest]")] = None,
    beta: options.Price = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Evaluate the fixed exits alone.")] = False,
    dataset: options.Dataset = None,
    split: Annotated[str | None, option("--split", "NAME", "Split.  [default: val]")] = None,
    batch_size: options.ImagesPerBatch = None,
    timed_images: Annotated[
        int | None,
        option("--timed-images", "N", "Images that ms are measured on; 0 measures none.  [default: 16]", min=0),
    ] = None,
    metrics: Annotated[
        str | None,
        option("--metrics", "pq|miou,ap", "Metrics in addition to PQ; `pq` for PQ alone.  [default: miou,ap]"),
    ] = None,
    rules: Annotated[
        str | None,
        option(
            "--rules",
            "|".join(RULES),
            "Whose rules mIoU and AP follow.  [default: cityscapes on Cityscapes, else coco]",
        ),
    ] = None,
    gate_only: Annotated[
        bool, typer.Option("--gate-only", help="Measure mIoU and AP of the gate alone: quicker, no controls for them.")
    ] = False,
    no_predictions: Annotated[bool, typer.Option("--no-predictions", help="Do not keep the predictions.")] = False,
    predictions: Annotated[
        Path | None,
        option("--predictions", "DIR", "Write the predictions there too: panoptic PNGs and JSON, or COCO's."),
    ] = None,
    check_with: Annotated[
        str | None,
        option(
            "--check-with",
            "panopticapi|pycocotools",
            "Compute PQ, of a detector box AP, by the official package as well.",
        ),
    ] = None,
    exported: options.Exported = None,
    engine: options.Engine = None,
    data_root: options.DataRoot = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    name: options.Name = None,
    seed: options.Seed = None,
    precision: options.Precision = None,
    compiled: options.Compile = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Measure PQ, mIoU, AP, GFLOPs and ms of the gate, of every fixed exit, of a random gate and of the oracle.

    Of a detector, box AP. What is kept holds per-image and per-class tables and the predictions.
    """
    if rules not in (None, *RULES):
        raise UsageError(f"--rules is {rules!r}, expected {' or '.join(RULES)}.")
    if check_with not in (None, *_OFFICIAL):
        raise UsageError(f"--check-with is {check_with!r}, expected {' or '.join(_OFFICIAL)}.")
    if no_gate and gate is not None:
        raise UsageError("--gate and --no-gate exclude each other: give one of them.")
    if no_gate and beta is not None:
        raise UsageError("--beta is a price for the gate, which --no-gate leaves out: give one of them.")
    if no_predictions and (predictions is not None or check_with is not None):
        raise UsageError("--predictions and --check-with need the predictions that --no-predictions leaves out.")
    check_engine(engine, exported, parent=parent, gate=gate, precision=precision, compile=compiled)
    if check_with is not None:
        _require_package(check_with)
    if predictions is not None:
        check_output(predictions, _ANOTHER_FOLDER)
    opened = open_store(store)
    with make_runtime(device if exported is None else "cpu", threads) as runtime:
        graphs = None
        if exported is None:
            inputs = _inputs(opened, parent, gate, no_gate, runtime.log)
        else:
            exported_plan, graphs = open_graphs(exported, engine)
            inputs = inputs_of_graphs(opened, exported_plan, exported, no_gate)
            if beta is None and "gate" in inputs:
                beta = exported_plan.gate_beta
        resolved = resolve(
            EvaluateConfig,
            preset=lambda settings: _preset(opened, inputs["parent"], settings),
            config_path=config,
            flags={
                "dataset.name": dataset,
                "dataset.root": None if data_root is None else str(data_root),
                "split": split,
                "beta": beta,
                "batch_size": batch_size,
                "precision": precision,
                "execution.compile": compiled or None,
                "execution.timed_images": timed_images,
                "metrics": None if metrics is None else _read_metrics(metrics),
                "rules": rules,
                "every_exit": False if gate_only else None,
                "predictions": False if no_predictions else None,
                "seed": seed,
                **({} if graphs is None else {f"graphs.{key}": value for key, value in graphs}),
            },
            assignments=assignments,
        )

        official = _task(opened, inputs["parent"]).official_package
        if check_with not in (None, official):
            raise UsageError(f"{check_with} does not score what this parent predicts; {official} does.")

        def show(report: Artifact[EvaluationManifest]) -> Shown:
            further: dict[str, object] = {}
            if runtime.world.is_main:
                if predictions is not None:
                    further["predictions"] = str(_unpack(report, predictions))
                if check_with is not None:
                    further |= _check(resolved, report, runtime)
            runtime.log.info("%s %s", report.manifest.kind, report.digest)
            return _show(opened, report, further)

        plan = plan_on_data(
            lambda draw: stage.plan(resolved, inputs, opened, runtime, draw=draw),
            runtime,
            stage.STAGE,
            resolved,
            inputs,
            dry_run=dry_run,
            as_json=as_json,
        )
        if plan is None:
            return
        run_stage(plan, opened, runtime, force=force, names=name, dry_run=dry_run, as_json=as_json, show=show)


def _task(store: Store, parent: str) -> Task:
    return task_of(store.get(parent, ParentManifest).manifest.architecture)


def _preset(store: Store, parent: str, settings: Mapping[str, object]) -> Mapping[str, object]:
    """The parent's data, and what its task measures beside its own metrics; boxes have one kind of rules."""
    metrics = list(_task(store, parent).further_metrics)
    rules = {} if metrics else {"rules": "coco"}
    return {**parent_dataset_preset(store, parent, settings), "metrics": metrics, **rules}


def _require_package(name: str) -> None:
    """Refuse before hours of work, not after them."""
    if importlib.util.find_spec(name) is None:
        raise UsageError(
            f"--check-with {name} needs that package, which is not installed. {_OFFICIAL[name]}, or leave the option "
            "out."
        )


def _inputs(store: Store, parent: str | None, gate: str | None, no_gate: bool, log: "logging.Logger") -> dict[str, str]:
    inputs = {"parent": resolve_input(store, "parent", parent, log)}
    if no_gate:
        return inputs
    try:
        return {**inputs, "gate": resolve_input(store, "gate", gate, log)}
    except ArtifactError as error:
        raise ArtifactError(f"{error} To evaluate the fixed exits alone, add --no-gate.") from error


def _read_metrics(text: str) -> list[str]:
    wanted = [item for item in text.split(",") if item != "pq"]
    unknown = sorted(set(wanted) - set(_METRICS))
    if unknown:
        raise UsageError(f"--metrics names {', '.join(unknown)}, expected pq or some of {', '.join(_METRICS)}.")
    return wanted


def _unpack(report: Artifact[EvaluationManifest], folder: Path) -> Path:
    from ecocli.scoring.predictions_file import ARCHIVE_NAME, unpack_predictions

    name = task_named(report.manifest.summary.task).predictions_name
    if name == ARCHIVE_NAME:
        return report.read(name, lambda path: unpack_predictions(path, folder))
    open_output(folder, _ANOTHER_FOLDER)
    write_bytes(folder / name, report.path_of(name).read_bytes(), folder, otherwise=_ANOTHER_FOLDER)
    return folder / name


def _check(config: EvaluateConfig, report: Artifact[EvaluationManifest], runtime: Runtime) -> dict[str, object]:
    """Score the kept predictions by the official package; a difference is a bug, ours or theirs."""
    summary = report.manifest.summary
    task = task_named(summary.task)
    dataset, package = task.open(config.dataset, config.split), task.official_package
    with tempfile.TemporaryDirectory() as folder:
        official = task.official_quality(dataset, _unpack(report, Path(folder)))
    ours = summary.by_name["gate" if summary.gate is not None else f"exit {summary.exit_depths[-1]}"]
    for key, value in official.items():
        own = getattr(ours, key)
        differ = own is not value if value is None or own is None else abs(own - value) > task.official_tolerance
        if differ:
            raise RuntimeError(f"{key} is {own}, but {package} finds {value} in the same predictions")
    runtime.log.info("%s finds the same %s in the predictions of %s.", package, ", ".join(official), ours.name)
    first, value = next(iter(official.items()))
    return {f"{package}_{first}": value}


def _show(store: Store, report: Artifact[EvaluationManifest], further: Mapping[str, object]) -> Shown:
    measured = store.read_provenance(report.digest).ms_per_image
    data = {
        "digest": report.digest,
        **report.manifest.summary.model_dump(mode="json"),
        "ms_per_image": measured,
        **further,
    }
    return Shown(data, table=_table(report.manifest.summary, measured))


def _table(summary: EvaluationSummary, ms: Mapping[str, float]) -> Table:
    headings = (*summary.qualities, "GFLOPs", "encoder", "ms", "depth")
    table = make_table(
        f"{summary.dataset} {summary.split}, {summary.images} images",
        ["exits"],
        (*headings, f"% at exit {' '.join(map(str, summary.exit_depths))}"),
        _caption(summary),
    )
    for row in summary.rows:
        table.add_row(
            row.name,
            *(points(getattr(row, field)) for field in summary.qualities.values()),
            plain(row.gflops),
            plain(row.encoder_gflops),
            _milliseconds(ms, row, summary.exit_depths),
            f"{row.mean_depth:.2f}",
            shares(row.exit_shares),
            style="bold" if row.name == "gate" else None,
        )
    return table


def _milliseconds(ms: Mapping[str, object], row: EvaluationRow, depths: Sequence[int]) -> str:
    """Show a row's own time; for the random mixture and the oracle the mean of the exits they take."""
    if row.name in ms:
        return f"{float(str(ms[row.name])):.1f}"
    parts = [ms.get(f"exit {depth}") for depth in depths]
    if any(part is None for part in parts):
        return "-"
    return f"{sum(share * float(str(part)) for share, part in zip(row.exit_shares, parts, strict=True)):.1f}"


def _caption(summary: EvaluationSummary) -> str:
    names = list(summary.qualities)
    lines = [] if summary.engine == "torch" else [f"Graphs run by {summary.engine} in {summary.precision}."]
    lines += [
        f"{names[0]} to {names[-1]} in points (0 to 100). GFLOPs: mean over the images, one multiply-add counts once; "
        "encoder: the whole pixel decoder."
    ]
    if summary.rules_note is not None:
        lines.append(summary.rules_note)
    lead = summary.gate_lead
    if lead is not None:
        lines.append(
            f"Gate against the best fixed blend of equal GFLOPs ({mixture(lead.mixture, summary.exit_depths)}): "
            f"{points(lead.lead, signed=True)} {summary.measure}, "
            f"95 % interval {interval((lead.low, lead.high), signed=True)} over "
            f"{summary.images} images." + reached_text(lead.reached)
        )
    return "\n".join(lines)
