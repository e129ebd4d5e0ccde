"""How numbers, mixtures and captions are written."""

import io

from rich.console import Console

from ecocli.commands.tables import make_table, mixture, points, print_table


def test_points__nearly_zero__has_no_sign() -> None:
    assert points(-0.00001) == "0.00"
    assert points(-0.00001, signed=True) == "+0.00"
    assert points(-0.0123, signed=True) == "-1.23"


def test_mixture__share_below_half_a_per_cent__left_out() -> None:
    assert mixture((0.998, 0.002), (2, 3)) == "100 % exit 2"
    assert mixture((0.34, 0.66), (2, 4)) == "34 % exit 2 + 66 % exit 4"


def test_print_table__caption_wider_than_the_table__one_line_of_the_console() -> None:
    table = make_table("title", ["a"], ["b"], "Chosen: beta 0.003031, with an offset where exits cost the same.")
    table.add_row("x", "1")
    written = io.StringIO()
    console = Console(file=written, width=100)
    print_table(console, table)
    assert "Chosen: beta 0.003031, with an offset where exits cost the same.\n" in written.getvalue()
    assert table.caption is not None
