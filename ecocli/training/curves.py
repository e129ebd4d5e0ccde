"""The curves of a run as a PNG file, the same bytes for the same metrics and the same matplotlib."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ecocli.training.metrics_log import evaluation_lines, loss_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Exits = Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, float]]]


def draw_loss_curve(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw each exit's loss over the steps and, where exits were evaluated, their panoptic quality; return a PNG.

    Args:
        lines: Lines of the metrics file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses, evaluations = loss_lines(lines), evaluation_lines(lines)
    exits_of = [line["exits"] for line in losses] + [line["evaluation"]["exits"] for line in evaluations]
    depths = sorted({int(depth) for exits in exits_of for depth in exits})
    panels = 2 if evaluations else 1
    figure = Figure(figsize=(7.0, 1.0 + 3.0 * panels), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
    axes[0].set_ylabel("loss of the exit")
    _draw_exits(axes[0], losses, lambda line: line["exits"], "loss", depths)
    if evaluations:
        latest = evaluations[-1]["evaluation"]
        # A detector has no PQ.
        measure = next((name for name in ("pq", "ap") if any(name in one for one in latest["exits"].values())), "pq")
        axes[1].set_ylabel(f"{measure.upper()} on {latest['images']} images ({latest['split']})")
        _draw_exits(axes[1], evaluations, lambda line: line["evaluation"]["exits"], measure, depths, scale=100.0)
        # Room for curves close together, but none below zero.
        axes[1].set_ylim(bottom=max(0.0, axes[1].get_ylim()[0]))
    axes[-1].set_xlabel("step")
    if depths:
        axes[0].legend()
    buffer = io.BytesIO()
    # The default metadata names the matplotlib version.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_exits(
    axes: "Axes",
    lines: Sequence[Mapping[str, Any]],
    exits_of: _Exits,
    name: str,
    depths: Sequence[int],
    scale: float = 1.0,
) -> None:
    """Draw one value of every exit over the steps; an exit has the same colour in every panel."""
    axes.grid(alpha=0.3)
    for index, depth in enumerate(depths):
        known = [line for line in lines if name in exits_of(line).get(str(depth), {})]
        axes.plot(
            [line["step"] for line in known],
            [scale * exits_of(line)[str(depth)][name] for line in known],
            color=f"C{index % 10}",
            label=f"exit {depth}",
            linewidth=1.2,
            # A few points far apart are measurements; a line alone would hide how few.
            marker="o" if len(known) <= 20 and name != "loss" else None,
            markersize=3.5,
        )
