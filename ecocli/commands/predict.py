"""``eco predict``: predicts a user's own images; prints the paths of what it wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecocli.artifacts.lineage import parent_of_gate
from ecocli.commands import options
from ecocli.commands._exported import check_engine
from ecocli.commands.common import emit_result, make_runtime, open_store, print_dry_run, resolve, resolve_input
from ecocli.commands.options import option
from ecocli.errors import UsageError

if TYPE_CHECKING:
    from ecocli.stages.predict import PredictReport


def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Files, folders with all below them, or quoted patterns.")
    ],
    parent: Annotated[
        str | None, option("--parent", "PARENT", "Name or digest.  [default: the gate's, else parent]")
    ] = None,
    gate: Annotated[str | None, option("--gate", "GATE", "Let this gate choose the exit of each image.")] = None,
    exit_depth: Annotated[
        int | None, option("--exit", "K", "Run K encoder layers on every image.  [default: deepest]", min=1)
    ] = None,
    beta: options.Price = None,
    out: Annotated[Path | None, option("--out", "DIR", "Folder for the results.  [default: predictions]")] = None,
    overlays: Annotated[
        bool | None, typer.Option("--overlays/--no-overlays", help="Write pictures with colours and class names.")
    ] = None,
    semantic: Annotated[
        bool | None, typer.Option("--semantic/--no-semantic", help="Write the best category of every pixel.")
    ] = None,
    instances: Annotated[
        bool | None, typer.Option("--instances/--no-instances", help="Write scored instances, COCO's result format.")
    ] = None,
    exported: options.Exported = None,
    engine: options.Engine = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    precision: options.Precision = None,
    compiled: options.Compile = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Segment images: panoptic PNGs with a COCO-format JSON file, and overlays; or detect: COCO's box results.

    A file that cannot be read is reported and left out, and the exit code is then 3.
    """
    from ecocli.config.predict import PredictConfig
    from ecocli.stages import predict as stage

    if gate is not None and exit_depth is not None:
        raise UsageError("--gate chooses the exit of each image and --exit fixes it. Give one of them.")
    if beta is not None and gate is None and exported is None:
        raise UsageError("--beta is a price for the gate to choose exits at. Name a gate with --gate.")
    check_engine(engine, exported, parent=parent, gate=gate, precision=precision, compile=compiled)
    opened = open_store(store)
    with make_runtime(device, threads) as runtime:
        resolved = resolve(
            PredictConfig,
            config_path=config,
            flags={
                "images": images,
                "out": None if out is None else str(out),
                "exit_depth": exit_depth,
                "beta": beta,
                "precision": precision,
                "execution.compile": compiled or None,
                "overlays": overlays,
                "semantic": semantic,
                "instances": instances,
                "exported": None if exported is None else str(exported),
                "engine": None if engine == "torch" else engine,
            },
            assignments=assignments,
        )
        inputs: dict[str, str] = {}
        if gate is not None:
            inputs["gate"] = resolve_input(opened, "gate", gate, runtime.log)
        if gate is not None and parent is None:
            inputs["parent"] = parent_of_gate(opened, inputs["gate"])
            runtime.log.info("parent %s (the gate's)", inputs["parent"])
        elif exported is None:
            inputs["parent"] = resolve_input(opened, "parent", parent, runtime.log)
        if dry_run:
            stage.plan(resolved, inputs, opened).check()
            print_dry_run(runtime.world, stage.STAGE, resolved, inputs, as_json=as_json)
            return
        report = stage.run(resolved, inputs, opened, runtime)
        if report.photos:
            emit_result(runtime.world, _data(report, inputs), text=_text(report), as_json=as_json)
        report.check()


def _text(report: "PredictReport") -> str:
    paths = [report.main]
    for photo in report.photos:
        paths += [path for path in photo.files.values() if path is not None]
    return "\n".join(map(str, paths))


def _data(report: "PredictReport", inputs: dict[str, str]) -> dict[str, object]:
    images = [
        {
            "image_id": photo.image_id,
            "source": str(photo.source),
            "exit_depth": photo.exit_depth,
            report.found_name: len(photo.found),
            **{kind: None if path is None else str(path) for kind, path in photo.files.items()},
        }
        for photo in report.photos
    ]
    return {"out": str(report.out), "inputs": inputs, "images": images, "failures": list(report.failures)}
