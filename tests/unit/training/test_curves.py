import io
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from ecocli.training.curves import draw_loss_curve

LINES = [
    {"step": 1, "exits": {"2": {"loss": 5.0}}},
    {"step": 2, "exits": {"2": {"loss": 4.0}, "10": {"loss": 3.0}}},
]

EVALUATED = [
    *LINES,
    {"step": 2, "evaluation": {"images": 4, "split": "val", "exits": {"2": {"pq": 0.25}, "10": {"pq": 0.5}}}},
]


def test_draw_loss_curve__twice__same_bytes_of_a_picture() -> None:
    first = draw_loss_curve(LINES)
    assert first == draw_loss_curve(LINES)
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.size == (700, 400)
        assert picture.info.get("Software") is None


def test_draw_loss_curve__another_loss__another_picture() -> None:
    assert draw_loss_curve(LINES) != draw_loss_curve([LINES[0]])


def test_draw_loss_curve__no_steps__still_a_picture() -> None:
    assert draw_loss_curve([]).startswith(b"\x89PNG")


def test_draw_loss_curve__evaluated__second_panel_with_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[tuple[list[float], list[float], str]]] = {}

    def plot(axes: Axes, steps: list[float], values: list[float], **style: Any) -> None:
        drawn.setdefault(axes.get_ylabel(), []).append((steps, values, style["color"]))
        draw(axes, steps, values, **style)

    draw = Axes.plot
    monkeypatch.setattr(Axes, "plot", plot)
    found = draw_loss_curve(EVALUATED)
    # Labelled before they are drawn into; PQ in points; one colour for an exit in both panels.
    assert drawn == {
        "loss of the exit": [([1, 2], [5.0, 4.0], "C0"), ([2], [3.0], "C1")],
        "PQ on 4 images (val)": [([2], [25.0], "C0"), ([2], [50.0], "C1")],
    }
    with Image.open(io.BytesIO(found)) as picture:
        assert picture.size == (700, 700)


def test_draw_loss_curve__quality_undefined__exit_without_points() -> None:
    empty = {"step": 2, "evaluation": {"images": 4, "split": "val", "exits": {}}}
    assert draw_loss_curve([*LINES, empty]).startswith(b"\x89PNG")
