"""``eco export``: writes a parent for other programs; prints the path."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ecocli.commands import options
from ecocli.commands._parent_dataset import parent_dataset_preset
from ecocli.commands.common import (
    emit_result,
    gather_settings,
    make_runtime,
    open_store,
    print_dry_run,
    resolve,
    resolve_input,
)
from ecocli.commands.options import option
from ecocli.commands.tables import make_table
from ecocli.errors import UsageError
from ecocli.reports.numbers import points

if TYPE_CHECKING:
    from ecocli.artifacts.store import Store
    from ecocli.stages.export_graphs import WrittenGraphs


def export_weights(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder (hf, onnx, openvino) or .pkl, .pth, .safetensors file (original) to write."
        ),
    ],
    parent: Annotated[
        str | None, option("--parent", "PARENT", "Name or digest of the parent.  [default: parent]")
    ] = None,
    format_: Annotated[
        str | None,
        option(
            "--format",
            "hf|original|onnx|openvino",
            "For transformers, with the original's names, or as graphs for another runtime.",
        ),
    ] = None,
    gate: Annotated[str | None, option("--gate", "GATE", "Gate to write beside the parent's graphs.")] = None,
    beta: Annotated[
        float | None, option("--beta", "B", "Price at which that gate chooses.  [default: as fitted]")
    ] = None,
    precision: Annotated[
        str | None, option("--precision", "float32|bfloat16|int8", "Of graphs.  [default: float32]")
    ] = None,
    size: Annotated[
        str | None, option("--size", "HxW,..", "The padded sizes of images that the graphs take.  [default: any]")
    ] = None,
    dataset: Annotated[
        str | None, option("--dataset", "NAME", "Images for int8 and for PQ before and after.  [default: the parent's]")
    ] = None,
    calibration_images: Annotated[
        int | None, option("--calibration-images", "N", "Training images that set int8's scales.  [default: 64]", min=1)
    ] = None,
    checked_images: Annotated[
        int | None, option("--checked-images", "N", "Validation images for PQ; 0 for none.  [default: 200]", min=0)
    ] = None,
    data_root: options.DataRoot = None,
    exit_depth: Annotated[
        int | None, option("--exit", "K", "Cut the encoder after K layers.  [default: deepest exit]", min=1)
    ] = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write a parent for other programs: a folder that transformers loads, a file with the original's names, or graphs.

    Graphs for ONNX Runtime or OpenVINO keep the exits and take the gate along; plan.json says how they fit together.
    """
    from ecocli.artifacts.lineage import parent_of_gate
    from ecocli.config.export_graphs import ExportGraphsConfig
    from ecocli.config.export_weights import ExportWeightsConfig
    from ecocli.data.datasets import NotDrawnError
    from ecocli.stages import export_graphs, export_weights

    opened = open_store(store)
    shared = {"out": str(out), "exit_depth": exit_depth, "replace": force or None}
    graph_flags = {
        "beta": beta,
        "precision": precision,
        "sizes": None if size is None else [_parse_size(one) for one in size.split(",")],
        "dataset.name": dataset,
        "dataset.root": None if data_root is None else str(data_root),
        "calibration_images": calibration_images,
        "checked_images": checked_images,
    }
    settings = gather_settings(config, {"format": format_}, assignments)
    as_graphs = settings.get("format") in ("onnx", "openvino")
    if not as_graphs and (gate is not None or any(value is not None for value in graph_flags.values())):
        raise UsageError(
            "--gate, --beta, --precision, --size and images are for graphs. Add --format onnx or openvino."
        )
    resolved: ExportGraphsConfig | ExportWeightsConfig
    if not as_graphs:
        resolved = resolve(
            ExportWeightsConfig,
            preset={"format": "hf"},
            config_path=config,
            flags={**shared, "format": format_},
            assignments=assignments,
        )
    with make_runtime("cpu") as runtime:
        inputs = {} if gate is None else {"gate": resolve_input(opened, "gate", gate, runtime.log)}
        if gate is not None and parent is None:
            inputs["parent"] = parent_of_gate(opened, inputs["gate"])
        else:
            inputs["parent"] = resolve_input(opened, "parent", parent, runtime.log)
        if as_graphs:
            resolved = resolve(
                ExportGraphsConfig,
                preset=lambda settings: _images_of(opened, inputs["parent"], settings),
                config_path=config,
                flags={**shared, "format": format_, **graph_flags},
                assignments=assignments,
            )
        if dry_run:
            if isinstance(resolved, ExportGraphsConfig):
                try:
                    export_graphs.plan(resolved, inputs, opened, draw=False)
                except NotDrawnError as error:
                    runtime.log.warning("%s", error)
            else:
                export_weights.plan(resolved, inputs, opened)
            print_dry_run(runtime.world, "export", resolved, inputs, as_json=as_json)
            return
        if isinstance(resolved, ExportWeightsConfig):
            path = export_weights.run(resolved, inputs, opened, runtime)
            emit_result(runtime.world, {"path": str(path), **inputs}, text=str(path), as_json=as_json)
            return
        written = export_graphs.run(resolved, inputs, opened, runtime)
        data: dict[str, object] = {"path": str(written.out), **inputs}
        if written.images:
            data |= {"images": written.images, "precision": written.precision}
            data["pq"] = {f"exit {depth}": [written.before[depth], written.after[depth]] for depth in written.before}
        table = _table(written, resolved.format) if written.images else None
        emit_result(runtime.world, data, text=str(written.out), table=table, as_json=as_json)


def _images_of(store: "Store", parent: str, settings: Mapping[str, object]) -> Mapping[str, object]:
    """The parent's data set, where the precision needs images."""
    if settings.get("precision", "float32") == "float32":
        return {}
    return parent_dataset_preset(store, parent, settings)


def _table(written: "WrittenGraphs", format_: str) -> Table:
    table = make_table(
        f"PQ on {written.images} validation images",
        ["exits"],
        ("torch, float32", f"{format_} graphs, {written.precision}", "difference"),
        "In points (0 to 100).",
    )
    for depth, before in written.before.items():
        after = written.after[depth]
        lost = None if before is None or after is None else after - before
        table.add_row(f"exit {depth}", points(before), points(after), points(lost, signed=True))
    return table


def _parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"--size is {text!r}, expected heights and widths in pixels such as 512x768,512x512.")
    return int(height), int(width)
