"""How numbers, mixtures and captions are written."""

import io

import pytest
from helpers_store import gate_metrics
from rich.console import Console

from ecocli.commands._gate_tables import controls_table, head_table, recipe_table, trade_off_table
from ecocli.commands.tables import make_table, print_table
from ecocli.reports.numbers import mixture, points


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


@pytest.mark.parametrize(
    "measure, rules", [("PQ", ""), ("AP", " AP of boxes by COCO's rules, as pycocotools computes it.")]
)
def test_gate_tables__captions__name_unit_and_rules(measure: str, rules: str) -> None:
    metrics = gate_metrics()
    tables = (
        controls_table(metrics, (2, 3), "depth", measure),
        recipe_table(metrics, measure),
        trade_off_table((), 0.001, measure),
        head_table({}, "depth", "ms", measure),
    )
    for table in tables:
        assert f"{measure} in points (0 to 100).{rules}" in str(table.caption)
    # A lead says what the gate and the blend have equal.
    assert str(tables[1].caption).endswith("Lead: over the best fixed mixture of equal GFLOPs.")
    assert str(tables[3].caption).endswith("Lead: over the best fixed mixture of equal ms.")
