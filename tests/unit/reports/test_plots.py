"""Plots: every series is there, labels stay apart, equal numbers give equal bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from ecocli.reports import plots
from ecocli.reports.plots import Tradeoff, TradeoffPoint, draw_exit_histogram, draw_tradeoff

POINTS = [TradeoffPoint(f"exit {depth}", 10.0 + depth, 0.5 + depth / 100) for depth in (2, 3, 4)]
GATE = TradeoffPoint("gate", 12.5, 0.54)
FULL = Tradeoff("a title", "PQ", POINTS, POINTS, [TradeoffPoint("β 0.1", 12.2, 0.531)], GATE, (0.535, 0.545), POINTS)
BARE = Tradeoff("a title", "PQ", POINTS, POINTS, [], None, None, POINTS)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def has_color(png: bytes, color: str) -> bool:
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels(png) - wanted).max(axis=2) <= 2).sum() > 20)


def test_draw_tradeoff__everything__draws_all_series_and_the_same_bytes_again() -> None:
    png = draw_tradeoff(FULL)
    colors = (plots.FIXED_COLOR, plots.GATE_COLOR, plots.ORACLE_COLOR)
    assert all(has_color(png, color) for color in colors)
    assert png == draw_tradeoff(FULL)
    assert b"Software" not in png


def test_draw_tradeoff__no_gate__draws_none() -> None:
    assert not has_color(draw_tradeoff(BARE), plots.GATE_COLOR)


def test_draw_tradeoff__crowded_points__leaves_labels_out_instead_of_overprinting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from matplotlib.axes import Axes

    written: list[str] = []
    original = Axes.annotate

    def record(self: Axes, text: str, *args: object, **kwargs: object) -> object:
        written.append(text)
        return original(self, text, *args, **kwargs)

    monkeypatch.setattr(Axes, "annotate", record)
    crowd = [TradeoffPoint(f"β {i}", 12.5, 0.53) for i in range(40)]
    draw_tradeoff(Tradeoff("", "PQ", POINTS, POINTS, crowd, GATE, None, POINTS))
    assert written[:4] == ["gate", "exit 2", "exit 3", "exit 4"]
    assert 4 < len(written) < 20


def test_draw_exit_histogram__with_and_without_gate__draws_its_bars() -> None:
    both = draw_exit_histogram("title", (2, 3), (0.25, 0.75), (0.5, 0.5))
    alone = draw_exit_histogram("title", (2, 3), (0.25, 0.75), None)
    assert has_color(both, plots.GATE_COLOR)
    assert has_color(alone, plots.ORACLE_COLOR)
    assert not has_color(alone, plots.GATE_COLOR)
    assert both == draw_exit_histogram("title", (2, 3), (0.25, 0.75), (0.5, 0.5))
