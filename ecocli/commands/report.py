"""``eco report``: a folder with one HTML page about an evaluation; prints the page's path."""

from pathlib import Path
from typing import Annotated

import typer

from ecocli.commands.common import emit_result, environment_data_root, make_runtime, open_store, resolve, resolve_input
from ecocli.commands.options import (
    ConfigOption,
    DataRootOption,
    DeviceOption,
    JsonOption,
    SetOption,
    StoreOption,
    ThreadsOption,
)
from ecocli.config.report import ReportConfig
from ecocli.stages import report as stage


def report(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for index.html and the pictures.  [default: report]"),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option("--evaluation", metavar="EVALUATION", help="Of `eco eval`.  [default: the latest]"),
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option("--examples", metavar="N", min=0, help="Example images; 0 needs no data.  [default: 6]"),
    ] = None,
    data_root: DataRootOption = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about an evaluation: trade-off, exits, examples, classes.

    Gates in the store that were fitted on the same table are drawn beside the evaluated one.
    """
    opened = open_store(store)
    with make_runtime(device, threads) as runtime:
        digest = resolve_input(opened, "evaluation", evaluation, runtime.log)
        resolved = resolve(
            ReportConfig,
            preset={"out": "report", "data_root": environment_data_root()},
            config_path=config,
            flags={
                "out": None if out is None else str(out),
                "examples": examples,
                "data_root": None if data_root is None else str(data_root),
            },
            assignments=assignments,
        )
        page = stage.run(resolved, {"evaluation": digest}, opened, runtime)
        emit_result(
            runtime.world,
            {"page": str(page.index), "pictures": [str(path) for path in page.pictures], "evaluation": digest},
            text=str(page.index),
            as_json=as_json,
        )
