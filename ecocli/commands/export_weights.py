"""``eco export``: writes a parent's weights for other programs; prints the path."""

from pathlib import Path
from typing import Annotated

import typer

from ecocli.commands.common import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    SetOption,
    StoreOption,
    emit_result,
    make_runtime,
    open_store,
    print_dry_run,
    resolve,
    resolve_input,
)


def export_weights(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder (hf) or .pkl, .pth, .safetensors file (original) to write."),
    ],
    parent: Annotated[
        str | None,
        typer.Option("--parent", metavar="PARENT", help="Name or digest of the parent.  [default: parent]"),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="hf|original", help="For transformers, or with the original's names."),
    ] = None,
    exit_depth: Annotated[
        int | None,
        typer.Option("--exit", min=1, metavar="K", help="Cut the encoder after K layers.  [default: deepest exit]"),
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a parent's weights: a folder that transformers loads, or a file with the original's names."""
    from ecocli.config.export_weights import ExportWeightsConfig
    from ecocli.stages import export_weights as stage

    opened = open_store(store)
    with make_runtime("cpu") as runtime:
        resolved = resolve(
            ExportWeightsConfig,
            preset={"format": "hf"},
            config_path=config,
            flags={"out": str(out), "format": format_, "exit_depth": exit_depth, "replace": force or None},
            assignments=assignments,
        )
        inputs = {"parent": resolve_input(opened, "parent", parent, runtime.log)}
        if dry_run:
            stage.plan(resolved, inputs, opened)
            print_dry_run(runtime.world, "export", resolved, inputs, as_json=as_json)
            return
        path = stage.run(resolved, inputs, opened, runtime)
        emit_result(
            runtime.world,
            {"path": str(path), "parent": inputs["parent"]},
            text=str(path),
            as_json=as_json,
        )
