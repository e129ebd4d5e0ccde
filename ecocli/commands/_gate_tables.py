"""A gate beside its controls as tables for the terminal. PQ in points (0 to 100)."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table

_UNITS = {"depth": "layers", "gflops": "GFLOPs", "ms": "ms"}


def write_to_stderr(table: "rich.table.Table") -> None:
    """Print a table where it does not mix with the result; never cut off in a log."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)


def controls_table(metrics: Mapping[str, object], exit_depths: Sequence[int], cost: str) -> "rich.table.Table":
    """Lay out the verdict of a gate's manifest: every fixed exit, the controls, the gate, the oracles."""
    table = _table(f"Scored on {metrics['scored_on']}, {metrics['images']} images")
    table.add_column("exits")
    headings = ["PQ", "PQ interval", f"cost, {_UNITS[cost]}", "GFLOPs", "encoder", "depth", "target hit %"]
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column(f"% at exit {' '.join(map(str, exit_depths))}", justify="right")
    majority = _mapping(metrics["majority"])
    fixed = metrics["fixed"]
    for entry in fixed if isinstance(fixed, list) else []:
        depth, hits = entry["exit_depth"], None
        name = f"exit {depth}"
        if depth == majority["exit_depth"]:
            name, hits = f"{name} (majority)", majority["accuracy"]
        if depth == _mapping(metrics["best_fixed"])["exit_depth"]:
            name += " (best)"
        _add(table, name, entry, None, hits)
    if metrics["blend"] is not None:
        _add(table, "fixed mixture of equal cost", _mapping(metrics["blend"]), None, None)
    _add(table, "random gate, same mixture", _mapping(metrics["random"]), None, None)
    gate = _mapping(metrics["gate"])
    _add(table, "gate", gate, gate["pq_interval"], gate["accuracy"], style="bold")
    _add(table, "oracle at this beta", _mapping(metrics["utility_oracle"]), None, 1.0)
    _add(table, "oracle of quality", _mapping(metrics["oracle"]), None, None)
    table.caption = (
        f"Gate less fixed mixture of equal cost: {_signed(metrics['lead'])} PQ, 95 % interval "
        f"{_interval(metrics['lead_interval'], signed=True)}."
    )
    table.caption_justify = "left"
    return table


def trade_off_table(seen: Sequence[Mapping[str, object]], chosen_beta: float) -> "rich.table.Table":
    """Lay out the betas that a search looked at."""
    table = _table("Trade-offs the search saw")
    for heading in ("beta", "PQ", "GFLOPs"):
        table.add_column(heading, justify="right")
    for entry in seen:
        beta = float(str(entry["beta"]))
        table.add_row(f"{beta:.4g}", _points(entry["pq"]), _plain(entry["gflops"]))
    table.caption = f"Chosen: beta {chosen_beta:.4g}, with an offset where a budget lies between two betas."
    table.caption_justify = "left"
    return table


def head_table(heads: Mapping[str, object], cost: str) -> "rich.table.Table":
    """Lay out the comparison of heads; each is compared with a blend of its own cost."""
    table = _table("Heads at this beta")
    table.add_column("head")
    for heading in ("PQ", f"cost, {_UNITS[cost]}", "target hit %", "lead on equal cost", "95 % interval"):
        table.add_column(heading, justify="right")
    for name, value in heads.items():
        entry = _mapping(value)
        table.add_row(
            name,
            _points(entry["pq"]),
            _plain(entry["cost"]),
            _points(entry["accuracy"]),
            _signed(entry["lead"]),
            _interval(entry["lead_interval"], signed=True),
        )
    return table


def _table(title: str) -> "rich.table.Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(box=SIMPLE_HEAD, title=title, title_style="bold")


def _add(
    table: "rich.table.Table",
    name: str,
    choice: Mapping[str, object],
    interval: object,
    hits: object,
    style: str | None = None,
) -> None:
    shares = choice["exit_shares"]
    table.add_row(
        name,
        _points(choice["pq"]),
        "" if interval is None else _interval(interval),
        _plain(choice["cost"]),
        _plain(choice["gflops"]),
        _plain(choice["encoder_gflops"]),
        f"{float(str(choice['mean_depth'])):.2f}",
        "" if hits is None else f"{100 * float(str(hits)):.1f}",
        " ".join(f"{100 * float(share):.0f}" for share in shares) if isinstance(shares, list) else "",
        style=style,
    )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: object) -> str:
    return "-" if value is None else f"{float(str(value)):.4g}"


def _points(value: object) -> str:
    return "-" if value is None else f"{100 * float(str(value)):.2f}"


def _signed(value: object) -> str:
    return "-" if value is None else f"{100 * float(str(value)):+.2f}"


def _interval(value: object, *, signed: bool = False) -> str:
    show = _signed if signed else _points
    return f"[{show(value[0])}, {show(value[1])}]" if isinstance(value, list) else "-"
