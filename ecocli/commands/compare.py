"""``eco compare``: several parents and their gates on one split, in one table and one plot."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ecocli.artifacts.store import Store
from ecocli.artifacts.summaries import MEASURES, QUALITIES
from ecocli.commands import options
from ecocli.commands.common import emit_result, make_runtime, open_store, resolve, resolve_input
from ecocli.commands.options import option
from ecocli.commands.tables import make_table
from ecocli.config.compare import CompareConfig
from ecocli.config.rules import BOX_RULES, RULES
from ecocli.errors import UsageError
from ecocli.reports.numbers import plain, points
from ecocli.runtime.context import Runtime
from ecocli.stages import compare as stage


def compare(
    parents: Annotated[
        list[str],
        typer.Argument(metavar="PARENT[:GATE]...", help="Parents by name or digest; give one again for more gates."),
    ],
    split: Annotated[str | None, option("--split", "SPLIT", "Of the derived tables.  [default: val]")] = None,
    rules: Annotated[
        str | None,
        option("--rules", "|".join(RULES), "Take mIoU and AP of evaluations by these rules.  [default: as `eval`]"),
    ] = None,
    out: Annotated[Path | None, option("--out", "DIR", "Also write compare.parquet and compare.png there.")] = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Compare parents on one split from their derived tables: PQ or AP, GFLOPs, and mIoU, AP and ms where measured.

    Every fixed exit and every gate named is a row. A star marks rows that no other row beats in quality and GFLOPs.
    """
    if rules not in (None, *RULES):
        raise UsageError(f"--rules is {rules!r}, expected {' or '.join(RULES)}.")
    opened = open_store(store)
    with make_runtime("cpu") as runtime:
        resolved = resolve(
            CompareConfig,
            config_path=config,
            flags={"split": split, "rules": rules, "out": None if out is None else str(out)},
            assignments=assignments,
        )
        found = stage.run(resolved, _contestants(parents, opened, runtime), opened)
        emit_result(
            runtime.world,
            {
                "split": found.split,
                "images": found.images,
                "rules": found.rules,
                "rows": [row.model_dump(mode="json") for row in found.rows],
                "files": [str(path) for path in found.files],
            },
            table=_table(found),
            as_json=as_json,
        )


def _contestants(texts: list[str], store: Store, runtime: Runtime) -> list[stage.Contestant]:
    """Take the arguments apart; a digest keeps the colon after ``sha256``."""
    gates: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for text in texts:
        algorithm, rest = ("sha256:", text.removeprefix("sha256:")) if text.startswith("sha256:") else ("", text)
        name, _, gate = rest.partition(":")
        parent = resolve_input(store, "parent", algorithm + name, runtime.log)
        labels.setdefault(parent, name[:12] if algorithm else name)
        found = gates.setdefault(parent, [])
        if gate:
            found.append(resolve_input(store, "gate", gate, runtime.log))
    return [stage.Contestant(labels[parent], parent, tuple(found)) for parent, found in gates.items()]


def _table(comparison: stage.Comparison) -> Table:
    measure = MEASURES[comparison.task]
    further = {heading: name for heading, name in QUALITIES[comparison.task].items() if name in ("miou", "ap")}
    further.pop(measure, None)
    table = make_table(
        f"Split {comparison.split}, {comparison.images} images",
        ("model", "choice"),
        (measure, *further, "GFLOPs", "encoder", "ms", "depth", ""),
        f"{', '.join((measure, *further))} in points (0 to 100). GFLOPs: mean over the images, one multiply-add counts "
        "once; encoder: the whole pixel decoder. ms: of one machine. A star: no other row has this quality for these "
        f"GFLOPs.\n{BOX_RULES if measure == 'AP' else f'Rules {comparison.rules}: {RULES[comparison.rules]}.'}",
    )
    previous = None
    for row in comparison.rows:
        if previous is not None and row.model != previous:
            table.add_section()
        previous = row.model
        table.add_row(
            row.model,
            row.choice,
            points(row.pq),
            *(points(getattr(row, name)) for name in further.values()),
            plain(row.gflops),
            plain(row.encoder_gflops),
            plain(row.ms),
            f"{row.mean_depth:.2f}",
            "*" if row.on_frontier else "",
        )
    return table
