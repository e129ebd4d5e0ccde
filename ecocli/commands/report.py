"""``eco report``: a folder with one HTML page about an evaluation; prints the page's path."""

from pathlib import Path
from typing import Annotated

from ecocli.commands import options
from ecocli.commands.common import emit_result, environment_data_root, make_runtime, open_store, resolve, resolve_input
from ecocli.commands.options import option
from ecocli.config.report import ReportConfig
from ecocli.stages import report as stage


def report(
    out: Annotated[
        Path | None, option("--out", "DIR", "Folder for index.html and the pictures.  [default: report]")
    ] = None,
    evaluation: Annotated[
        str | None, option("--evaluation", "EVALUATION", "Of `eco eval`.  [default: the latest]")
    ] = None,
    examples: Annotated[
        int | None, option("--examples", "N", "Example images; 0 needs no data.  [default: 6]", min=0)
    ] = None,
    data_root: options.DataRoot = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    as_json: options.Json = False,
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
