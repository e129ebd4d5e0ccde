"""The one look of tables on the terminal."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ecocli.runtime.streams import stderr_file


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
