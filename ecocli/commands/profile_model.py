"""``eco profile``: GFLOPs, and on request milliseconds, per exit and part; prints a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import ProfileManifest
from ecocli.artifacts.profile_summary import ExitTimes, ExpectedCost, Latency, ProfiledInput, ProfileSummary
from ecocli.artifacts.provenance import NOTHING_RECORDED, Provenance
from ecocli.artifacts.store import Store
from ecocli.commands import options
from ecocli.commands._exported import check_engine, open_graphs
from ecocli.commands._parent_dataset import parent_dataset_preset
from ecocli.commands.common import (
    Shown,
    environment_data_root,
    make_runtime,
    open_store,
    resolve,
    resolve_input,
    run_stage,
)
from ecocli.commands.options import option
from ecocli.commands.tables import make_table
from ecocli.config.any_architecture import ALL_ARCHITECTURES
from ecocli.config.profile_model import ProfileModelConfig
from ecocli.errors import UsageError
from ecocli.reports.numbers import mixture
from ecocli.stages import profile_model as stage
from ecocli.tasks.registry import task_of

if TYPE_CHECKING:
    import logging

    from ecocli.config.exported import ExportedPlan


# Parts of the table: heading, key of the GFLOPs, keys of the milliseconds (added up).
_COLUMNS = (
    ("backbone", "backbone", ("backbone",)),
    ("pixel decoder", "pixel_decoder", ("projections", "encoder", "mask_features")),
    ("of it encoder", "encoder", ("encoder",)),
    ("upsampling", "upsampling", ()),
    ("transformer decoder", "transformer_decoder", ("transformer_decoder",)),
    ("post-processing", "post_processing", ("post_processing",)),
)

_PARAMETER_PARTS = ("backbone", "pixel_decoder", "transformer_decoder", "total")


def profile_model(
    parent: Annotated[str | None, option("--parent", "PARENT", "Parent to profile.  [default: the latest]")] = None,
    arch: Annotated[
        str | None, option("--arch", "NAME", "Profile an architecture instead, such as m2f-swin-t.")
    ] = None,
    gate: Annotated[str | None, option("--gate", "GATE", "Add the cost under this gate's choice of exits.")] = None,
    dataset: Annotated[
        str | None,
        option("--dataset", "NAME", "Mean over the validation images of shapes, coco, cityscapes or a .toml."),
    ] = None,
    size: Annotated[list[str] | None, option("--size", "HxW", "An image size instead; may be repeated.")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure milliseconds on this machine too.")] = False,
    convention: Annotated[
        str | None, option("--convention", "paper|all", "all adds what published GFLOPs leave out.  [default: paper]")
    ] = None,
    exits: Annotated[str | None, option("--exits", "D,D", "Exits to show.  [default: the parent's; 2,3,4,5,6]")] = None,
    batch_size: Annotated[int | None, option("--batch-size", "N", "Images per measured run.", min=1)] = None,
    repetitions: Annotated[int | None, option("--repetitions", "N", "Measured runs per exit.", min=2)] = None,
    exported: options.Exported = None,
    engine: options.Engine = None,
    precision: options.Precision = None,
    compiled: options.Compile = False,
    data_root: options.DataRoot = None,
    config: options.Config = None,
    assignments: options.Set = None,
    store: options.Store = None,
    name: options.Name = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Count GFLOPs and measure milliseconds per exit, by part.

    GFLOPs need neither images nor weights: one multiply-add counts once, as in published tables. Milliseconds are
    medians on this machine, with the quartiles beside them.
    """
    check_engine(engine, exported, parent=parent, arch=arch, gate=gate, precision=precision, compile=compiled)
    opened = open_store(store)
    with make_runtime(device if exported is None else "cpu", threads) as runtime:
        sizes = None if not size else [_read_size(text) for text in size]
        exported_plan, graphs = (None, None) if exported is None else open_graphs(exported, engine)
        inputs = {} if exported_plan is not None else _inputs(opened, parent, arch, gate, runtime.log)
        if exported_plan is not None and sizes is None and dataset is None:
            sizes = list(exported_plan.sizes) or None
        resolved = resolve(
            ProfileModelConfig,
            preset=lambda settings: _preset(opened, inputs.get("parent"), arch, exported_plan, settings),
            config_path=config,
            flags={
                "dataset.name": dataset,
                "dataset.root": None if data_root is None else str(data_root),
                "sizes": sizes,
                "convention": convention,
                "exit_depths": None if exits is None else _read_exits(exits),
                "execution.latency": True if latency or exported is not None else None,
                **({} if graphs is None else {f"graphs.{key}": value for key, value in graphs}),
                "execution.batch_size": batch_size,
                "execution.repetitions": repetitions,
                "precision": precision,
                "execution.compile": True if compiled else None,
            },
            assignments=assignments,
        )

        def show(report: Artifact[ProfileManifest]) -> Shown:
            measured = opened.read_provenance(report.digest) if resolved.execution.latency else NOTHING_RECORDED
            data: dict[str, Any] = {"digest": report.digest, **report.manifest.summary.model_dump(mode="json")}
            known = measured.known()
            data |= {key: known[key] for key in ("ms_per_image", "latency", "device") if key in known}
            runtime.log.info("%s %s", report.manifest.kind, report.digest)
            return Shown(data, table=_table(report.manifest.summary, measured))

        plan = stage.plan(resolved, inputs, opened, runtime)
        run_stage(plan, opened, runtime, force=force, names=name, dry_run=dry_run, as_json=as_json, show=show)


def _inputs(
    store: Store, parent: str | None, arch: str | None, gate: str | None, log: "logging.Logger"
) -> dict[str, str]:
    if arch is None:
        inputs = {"parent": resolve_input(store, "parent", parent, log)}
        return inputs if gate is None else {**inputs, "gate": resolve_input(store, "gate", gate, log)}
    if parent is not None or gate is not None:
        raise UsageError("--arch profiles an architecture without weights: leave --parent and --gate out.")
    if arch not in ALL_ARCHITECTURES:
        raise UsageError(f"--arch is {arch!r}, expected one of {', '.join(ALL_ARCHITECTURES)}.")
    return {}


def _preset(
    store: Store, parent: str | None, arch: str | None, graphs: "ExportedPlan | None", settings: Mapping[str, object]
) -> Mapping[str, object]:
    """The parent's data and exits, or the architecture's; nothing of a data set where sizes are given."""
    layer: dict[str, object] = {}
    named = settings.get("dataset")
    named = named.get("name") if isinstance(named, Mapping) else None
    if graphs is not None:
        layer = {"architecture": graphs.architecture.model_dump(mode="json"), "exit_depths": list(graphs.exit_depths)}
        data = str(named or ("shapes" if graphs.architecture.name.endswith("-shapes") else "coco"))
        if "sizes" not in settings:
            layer["dataset"] = {"name": data, "root": environment_data_root()}
    elif arch is not None:
        data = str(named or ("shapes" if arch.endswith("-shapes") else "coco"))
        layer["architecture"] = _with_classes(arch, data)
        layer["exit_depths"] = list(ALL_ARCHITECTURES[arch].exits.default_depths())
        if "sizes" not in settings:
            layer["dataset"] = {"name": data, "root": environment_data_root()}
    elif "sizes" not in settings:
        assert parent is not None
        layer.update(parent_dataset_preset(store, parent, settings))
    return layer


def _with_classes(arch: str, dataset: str) -> dict[str, object]:
    from ecocli.data.categories import CITYSCAPES, COCO, SHAPES

    architecture = ALL_ARCHITECTURES[arch]
    preset, table = architecture.model_dump(mode="json"), {"coco": COCO, "cityscapes": CITYSCAPES, "shapes": SHAPES}
    if dataset not in table:
        return preset
    task = task_of(architecture)
    return {**preset, "num_classes": task.num_classes(architecture, task.annotated(table[dataset]))}


def _read_size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--size is {text!r}, expected height x width in pixels, such as 800x1088.")
    return int(parts[0]), int(parts[1])


def _read_exits(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--exits is {text!r}, expected encoder depths such as 2,4,6.")
    return [int(part) for part in parts]


def _table(summary: ProfileSummary, measured: Provenance) -> Table:
    table = make_table(f"{summary.architecture}, {summary.num_classes} classes", ["input"], ["exit"])
    table.add_column("")
    for heading in (*(heading for heading, _, _ in _COLUMNS), "total"):
        table.add_column(heading, justify="right")
    latencies = measured.latency or len(summary.inputs) * (None,)
    for entry, latency in zip(summary.inputs, latencies, strict=True):
        times = {} if latency is None else {one.exit_depth: one for one in latency.exits}
        for row in entry.exits:
            cells = [_gflops(getattr(row, part)) for _, part, _ in _COLUMNS]
            table.add_row(entry.input, str(row.exit_depth), "GFLOPs", *cells, _gflops(row.total))
            if row.exit_depth in times:
                table.add_row("", "", "ms", *_ms_cells(times[row.exit_depth]))
        if entry.gate is not None:
            blanks = [""] * (len(_COLUMNS) - 1)
            cells = [blanks[0], _gflops(entry.gate.pixel_decoder), *blanks[1:]]
            table.add_row(entry.input, "gate", "GFLOPs", *cells, _gflops(entry.gate.total), style="bold")
    table.caption = "\n".join(_caption(summary, measured))
    return table


def _gflops(value: float) -> str:
    """Two decimals, as papers print them; three digits of what would vanish."""
    return f"{value:.2f}" if value >= 1.0 or value == 0.0 else f"{value:.3g}"


def _ms_cells(times: ExitTimes) -> list[str]:
    cells = []
    for _, _, parts in _COLUMNS:
        known = bool(parts) and set(parts) <= set(times.parts)
        cells.append(f"{sum(times.parts[part].median_ms for part in parts):.1f}" if known else "")
    total = times.total
    return [*cells, f"{total.median_ms:.1f} ({total.low_ms:.1f} to {total.high_ms:.1f})"]


def _caption(summary: ProfileSummary, measured: Provenance) -> list[str]:
    lines = [
        "GFLOPs: one multiply-add counts once; " + _CONVENTION_TEXT[summary.convention],
        "Total = backbone + pixel decoder + upsampling + transformer decoder + post-processing (semantic maps of all "
        "queries at the original size).",
        *map(_input_line, summary.inputs),
        "Parameters: "
        + ", ".join(f"{name.replace('_', ' ')} {summary.parameters[name] / 1e6:.2f} M" for name in _PARAMETER_PARTS),
    ]
    lines += [_gate_line(entry.gate) for entry in summary.inputs if entry.gate is not None][:1]
    for latency in measured.latency:
        lines += _latency_lines(latency, measured.device)
    return lines


_CONVENTION_TEXT = {
    "paper": "deformable sampling and the query-key product of masked attention count nothing, as published.",
    "all": "deformable sampling and the query-key product of masked attention are counted, unlike published figures.",
}


def _input_line(entry: ProfiledInput) -> str:
    sizes = entry.padded_sizes
    network = f"{sizes[0][0]} x {sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes, padded to multiples of 32"
    images = "one image" if entry.images == 1 else f"mean over {entry.images:,} images"
    return f"Input {entry.input}: {images}, network input {network}."


def _gate_line(gate: ExpectedCost) -> str:
    taken = mixture(gate.exit_shares, gate.exit_depths, all_exits=True, joint=", ")
    return f"Gate (beta {gate.beta:g}), scored on {gate.scored_on}: {taken}; its own cost included."


def _latency_lines(latency: Latency, device: str) -> list[str]:
    height, width = latency.padded_size
    memory = latency.peak_memory_bytes / 2**30
    runs = f"batch {latency.batch_size}, {latency.dtype}, {device}, {latency.threads} threads"
    if latency.engine != "torch":
        parts = latency.exits[-1].parts
        runs += (
            f", graphs run by {latency.engine} (extract, that is backbone and projections, "
            f"{parts['extract'].median_ms:.1f}; decode, all that follows the encoder, "
            f"{parts['decode'].median_ms:.1f})"
        )
    return [
        f"ms per image: median (quartiles) at {height} x {width}, {runs}; peak memory {memory:.2f} GiB. One layer "
        f"{latency.ms_per_layer:.1f} ms, exits within {100 * latency.line_error:.1f} % of a line; gate "
        f"{latency.gate.median_ms:.2f} ms."
    ]
