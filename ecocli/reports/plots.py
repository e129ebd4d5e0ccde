"""Plots of a report (quality against compute; how often each exit is best and is chosen) and of a comparison.

Axes: E exits. PNG bytes, the same for the same numbers and the same matplotlib, which is imported only when drawing.
Quality is drawn in points (0 to 100), cost in GFLOPs.
"""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIXED_COLOR = "#4a5160"
BLEND_COLOR = "#9aa1ac"
GATE_COLOR = "#d1495b"
ORACLE_COLOR = "#2a7f9e"
ATTAINABLE_COLOR = "#c98a1b"
MODEL_COLORS = ("#2a7f9e", "#d1495b", "#c98a1b", "#6a4c93", "#3a7d44", "#8d5524")

Offsets = tuple[tuple[int, int], ...]

_LABEL_PT = 8.5
_NARROW = (4.2, 4.6)
# Offsets from the point in points (right, up), the favourite first.
_BESIDE: Offsets = ((10, 5), (10, -15), (-10, 5), (-10, -15))
_AROUND: Offsets = ((0, -18), (0, 8), (9, -14), (9, 6), (-9, -14), (-9, 6), (0, -28), (0, 18))


@dataclass(frozen=True)
class TradeoffPoint:
    """One way of choosing exits.

    Attributes:
        label: Written beside the point; empty for none.
        pq: Quality, PQ or AP, 0..1.
    """

    label: str
    gflops: float
    pq: float


@dataclass(frozen=True)
class Tradeoff:
    """What the trade-off plot shows.

    Attributes:
        measure: What quality is called: PQ or AP.
        blends: Random choice between fixed exits, along its line.
        gates: Fitted gates by ascending cost; the evaluated one may be among them.
        evaluated: The evaluated gate, None without one.
        pq_interval: Its lead's interval moved to its place: lowest and highest PQ, or None.
        oracles: The oracle at several prices of compute, by ascending cost; the last point is the oracle of quality.
        attainable: Where the truth about the mirror images chooses, by ascending cost; empty where not measured.
    """

    title: str
    measure: str
    fixed: Sequence[TradeoffPoint]
    blends: Sequence[TradeoffPoint]
    gates: Sequence[TradeoffPoint]
    evaluated: TradeoffPoint | None
    pq_interval: tuple[float, float] | None
    oracles: Sequence[TradeoffPoint]
    attainable: Sequence[TradeoffPoint] = ()


def draw_tradeoff(tradeoff: Tradeoff, *, narrow: bool = False) -> bytes:
    """Draw quality against GFLOPs and return a PNG.

    Args:
        narrow: Draw it for a screen as narrow as a phone's: letters as large as beside it.
    """
    figure, axes = _new_figure(*(_NARROW if narrow else (8.0, 5.0)))
    _line(axes, tradeoff.oracles, ORACLE_COLOR, "oracle (best exit of every image)", marker="^", linewidth=1.6)
    _line(axes, tradeoff.attainable, ATTAINABLE_COLOR, "attainable (mirror's truth)", marker="v", linewidth=1.4)
    _line(axes, tradeoff.blends, BLEND_COLOR, "random choice between exits", linestyle="--", linewidth=1.4)
    _line(axes, tradeoff.fixed, FIXED_COLOR, "fixed exit", marker="s", linestyle="", markersize=7)
    # Not joined: gates that were fitted apart, each at several prices, are no one curve.
    dots = {"marker": "o", "linestyle": "", "markersize": 5, "alpha": 0.65}
    _line(axes, tradeoff.gates, GATE_COLOR, "gates at other prices", **dots)
    gate = tradeoff.evaluated
    if gate is not None:
        if tradeoff.pq_interval is not None:
            low, high = tradeoff.pq_interval
            errors = [[100 * (gate.pq - low)], [100 * (high - gate.pq)]]
            axes.errorbar([gate.gflops], [100 * gate.pq], yerr=errors, color=GATE_COLOR, capsize=4, linewidth=1.2)
        _line(axes, [gate], GATE_COLOR, "evaluated gate", marker="*", linestyle="", markersize=17, zorder=5)
    axes.set_xlabel("GFLOPs per image (one multiply-add counts once)")
    axes.set_ylabel(tradeoff.measure)
    axes.set_title(tradeoff.title, fontsize=10)
    axes.margins(x=0.09, y=0.13)
    _legend(figure, axes, narrow)
    # The evaluated gate and the fixed exits come first: where there is no room, others stay without a label.
    labels = [(point, GATE_COLOR, _BESIDE) for point in (gate,) if point is not None]
    labels += [(point, FIXED_COLOR, _AROUND) for point in tradeoff.fixed]
    labels += [(point, GATE_COLOR, _AROUND) for point in tradeoff.gates]
    marks = [*tradeoff.fixed, *tradeoff.gates, *tradeoff.attainable, *tradeoff.oracles]
    _write_labels(figure, axes, labels, marks if gate is None else [gate, *marks])
    return _png(figure)


def draw_comparison(
    title: str,
    measure: str,
    models: Sequence[tuple[str, Sequence[TradeoffPoint], Sequence[TradeoffPoint]]],
    frontier: Sequence[TradeoffPoint],
) -> bytes:
    """Draw several models' quality against GFLOPs and return a PNG.

    Args:
        models: Name, fixed exits and gates of each.
    """
    figure, axes = _new_figure(8.0, 5.0)
    by_cost = sorted(frontier, key=lambda point: point.gflops)
    _line(axes, by_cost, BLEND_COLOR, "not beaten by another", linestyle="--", linewidth=1.4)
    labels: list[tuple[TradeoffPoint, str, Offsets]] = []
    for number, (name, fixed, gates) in enumerate(models):
        color = MODEL_COLORS[number % len(MODEL_COLORS)]
        _line(axes, fixed, color, f"{name}, fixed exits", marker="s", markersize=7, linewidth=1.0, alpha=0.8)
        _line(axes, gates, color, f"{name}, gates", marker="*", linestyle="", markersize=15, zorder=5)
        labels += [(point, color, _BESIDE) for point in gates]
        labels += [(point, color, _AROUND) for point in fixed]
    axes.set_xlabel("GFLOPs per image (one multiply-add counts once)")
    axes.set_ylabel(measure)
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.09, y=0.13)
    axes.legend(loc="best", frameon=False, fontsize=9)
    _write_labels(figure, axes, labels, [point for point, _color, _offsets in labels])
    return _png(figure)


def draw_exit_histogram(
    title: str,
    exit_depths: Sequence[int],
    best_shares: Sequence[float],
    gate_shares: Sequence[float] | None,
    *,
    narrow: bool = False,
) -> bytes:
    """Draw how often each exit is an image's best, and how often the gate takes it; return a PNG.

    Args:
        best_shares: Share of the images whose best exit it is.
        gate_shares: Share of the images the gate sends there; None without a gate.
        narrow: Draw it for a screen as narrow as a phone's.
    """
    figure, axes = _new_figure(*(_NARROW if narrow else (8.0, 3.4)))
    groups = [("best exit of the image", best_shares, ORACLE_COLOR)]
    if gate_shares is not None:
        groups.append(("exit the gate takes", gate_shares, GATE_COLOR))
    width = 0.8 / len(groups)
    for number, (label, shares, color) in enumerate(groups):
        places = [index - 0.4 + width * (number + 0.5) for index in range(len(exit_depths))]
        bars = axes.bar(places, [100 * share for share in shares], width * 0.94, label=label, color=color)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=9, color=color)
    word = "" if narrow else "exit "
    axes.set_xticks(range(len(exit_depths)), [f"{word}{depth}" for depth in exit_depths])
    axes.set_xlabel("exit" if narrow else "")
    axes.set_ylabel("% of images")
    axes.set_title(title, fontsize=10)
    axes.margins(y=0.15)
    _legend(figure, axes, narrow)
    return _png(figure)


def _new_figure(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: "Figure", axes: "Axes", narrow: bool) -> None:
    """Write the legend: inside where there is room, above the axes on narrow plots."""
    if narrow:
        figure.legend(loc="outside upper left", frameon=False, fontsize=9)
        axes.set_title("")
    else:
        axes.legend(loc="best", frameon=False, fontsize=9)


def _line(axes: "Axes", points: Sequence[TradeoffPoint], color: str, label: str, **style: Any) -> None:
    if points:
        places = [point.gflops for point in points], [100 * point.pq for point in points]
        axes.plot(*places, color=color, label=label, **style)


def _write_labels(
    figure: "Figure",
    axes: "Axes",
    labels: Sequence[tuple[TradeoffPoint, str, Offsets]],
    marks: Sequence[TradeoffPoint],
) -> None:
    """Write each label at the first of its places that is free; leave it out where none is."""
    figure.draw_without_rendering()
    per_point = figure.dpi / 72.0
    half = 6.0 * per_point
    places = axes.transData.transform([(mark.gflops, 100 * mark.pq) for mark in marks])
    taken = [(x - half, y - half, x + half, y + half) for x, y in places.tolist()]
    taken += _boxes_of_lines(axes, per_point)
    for point, color, offsets in labels:
        if not point.label:
            continue
        x, y = axes.transData.transform((point.gflops, 100 * point.pq)).tolist()
        width, height = 4.9 * len(point.label) * per_point, 9.0 * per_point
        for right, up in offsets:
            left = x + right * per_point - (width / 2 if right == 0 else width if right < 0 else 0.0)
            bottom = y + up * per_point
            box = (left, bottom, left + width, bottom + height)
            crosses = any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken)
            if crosses or left < axes.bbox.x0:
                continue
            taken.append(box)
            axes.annotate(
                point.label,
                (point.gflops, 100 * point.pq),
                xytext=(right, up),
                textcoords="offset points",
                ha="center" if right == 0 else "right" if right < 0 else "left",
                va="bottom",
                fontsize=_LABEL_PT,
                color=color,
            )
            break


def _boxes_of_lines(axes: "Axes", per_point: float) -> list[tuple[float, float, float, float]]:
    """Cover the drawn lines with small boxes, in pixels: labels are not written across them."""
    boxes = []
    for line in axes.get_lines():
        if line.get_linestyle() == "None":
            continue
        corners = axes.transData.transform(line.get_xydata()).tolist()
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            steps = 1 + int(max(abs(x1 - x0), abs(y1 - y0)) / (4.0 * per_point))
            for step in range(steps + 1):
                x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
                boxes.append((x - per_point, y - per_point, x + per_point, y + per_point))
    return boxes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # The default metadata names the matplotlib version.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
