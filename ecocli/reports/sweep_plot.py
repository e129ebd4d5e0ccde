"""The trade-off plot of a sweep: quality of gates, fixed exits, their blends and the oracle against compute.

SVG bytes, the same for the same numbers and the same matplotlib, which is imported only when drawing. Quality is in
points.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

_GATE_COLORS = ("#d1495b", "#edae49", "#6a4c93", "#3a7d44", "#00798c", "#8d5524", "#b56576", "#5e548e")


@dataclass(frozen=True)
class PlotPoint:
    """One way of choosing exits.

    Attributes:
        gflops: Mean cost of an image.
        pq: Quality, PQ or AP, 0..1.
        low: Lower end of its interval, or ``pq``.
        high: Upper end of its interval, or ``pq``.
        label: Written beside the point; empty for none.
    """

    gflops: float
    pq: float
    low: float
    high: float
    label: str = ""


def draw_sweep(
    title: str,
    measure: str,
    fixed: Sequence[PlotPoint],
    gates: Sequence[tuple[str, Sequence[PlotPoint]]],
    oracle: Sequence[PlotPoint],
    attainable: Sequence[PlotPoint] = (),
) -> bytes:
    """Draw the plot and return an SVG file.

    Args:
        measure: What quality is called: PQ or AP.
        fixed: Every fixed exit, by ascending cost.
        gates: Name and points of each series of gates.
        oracle: Each image at its target exit, at the same betas.
        attainable: Where the truth about the mirror images chooses, at the gates' cost; empty where not measured.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)

    def places(points: Sequence[PlotPoint]) -> tuple[list[float], list[float]]:
        return [point.gflops for point in points], [100 * point.pq for point in points]

    by_cost = sorted(oracle, key=lambda point: point.gflops)
    axes.plot(*places(by_cost), color="#2a7f9e", marker="^", linewidth=1.2, label="oracle at the same betas")
    if attainable:
        by_cost = sorted(attainable, key=lambda point: point.gflops)
        axes.plot(*places(by_cost), color="#c98a1b", marker="v", linewidth=1.2, label="attainable (mirror's truth)")
    axes.plot(*places(fixed), color="#4a5160", marker="s", linestyle="--", label="fixed exits and their mixtures")
    for point in fixed:
        axes.annotate(point.label, (point.gflops, 100 * point.pq), (5, -12), textcoords="offset points", fontsize=8)
    for number, (name, points) in enumerate(gates):
        ordered = sorted(points, key=lambda point: point.gflops)
        color = _GATE_COLORS[number % len(_GATE_COLORS)]
        errors = [
            [100 * (point.pq - point.low) for point in ordered],
            [100 * (point.high - point.pq) for point in ordered],
        ]
        axes.errorbar(
            *places(ordered), yerr=errors, color=color, marker="o", markersize=5, linewidth=1.6, capsize=3, label=name
        )
    axes.set_xlabel("GFLOPs per image (one multiply-add counts once)")
    axes.set_ylabel(measure)
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "eco"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()
