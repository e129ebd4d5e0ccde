"""The one look of tables on the terminal, and how numbers are written in them. PQ is in points (0 to 100)."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ecocli.config.rules import BOX_RULES
from ecocli.runtime.streams import stderr_file

_LEAST_SHARE = 0.005  # less is 0 % when it is written


def make_table(title: str, left: Sequence[str], right: Iterable[str], caption: str = "") -> Table:
    """Make a table of results.

    Args:
        left: Headings of columns of text.
        right: Headings of columns of numbers, aligned on the right.
    """
    table = Table(box=box.SIMPLE_HEAD, title=title, title_style="bold", caption=caption, caption_justify="left")
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def make_list(*headings: str, right: Iterable[str] = ()) -> Table:
    """Make a plain list without title and edge; nothing in it is cut: digests and paths are copied from the screen.

    Args:
        right: Those of numbers, aligned on the right.
    """
    table, numbers = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False), set(right)
    for heading in headings:
        table.add_column(heading, overflow="fold", justify="right" if heading in numbers else "left")
    return table


def write_to_stderr(table: Table) -> None:
    """Print a table where it does not mix with the result; never cut off in a log."""
    console = Console(file=stderr_file())
    if not console.is_terminal:
        console.width = max(console.width, 160)
    print_table(console, table)


def print_table(console: Console, table: Table) -> None:
    """Print a table, and its caption as wide as the console: rich breaks it at the width of the table."""
    caption, table.caption = table.caption, None
    console.print(table)
    table.caption = caption
    if caption:
        console.print(caption)


def points(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Write a ratio in points, or a dash."""
    return "-" if value is None else f"{100 * value:{'+' if signed else ''}z.{digits}f}"


def points_note(measure: str) -> str:
    """Say what the numbers of a table of PQ or AP are, and of AP whose rules it follows."""
    return f"{measure} in points (0 to 100)." + (f" {BOX_RULES}" if measure == "AP" else "")


def interval(ends: Sequence[float | None], *, signed: bool = False) -> str:
    """Write an interval of ratios in points."""
    return f"[{points(ends[0], signed=signed)}, {points(ends[1], signed=signed)}]"


def plain(value: float | None) -> str:
    """Write a cost with four digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def shares(values: Iterable[float]) -> str:
    """Write shares in per cent."""
    return " ".join(f"{100 * value:.0f}" for value in values)


def mixture(values: Iterable[float], exit_depths: Iterable[int], *, all_exits: bool = False, joint: str = " + ") -> str:
    """Write a mixture of exits, without those that it leaves out unless all are wanted."""
    return joint.join(
        f"{100 * share:.0f} % exit {depth}"
        for share, depth in zip(values, exit_depths, strict=True)
        if all_exits or share >= _LEAST_SHARE
    )


def reached_text(reached: float | None) -> str:
    """Say what share of the attainable lead a gate has, where that was measured."""
    if reached is None:
        return ""
    return (
        f" It reaches {100.0 * reached:.0f} % of what is attainable: the lead of the exits that the truth about the "
        "mirror images would choose."
    )
