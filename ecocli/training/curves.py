"""The loss curve of a run as a PNG file, the same bytes for the same metrics and the same matplotlib."""

import io
from collections.abc import Mapping, Sequence
from typing import Any


def draw_loss_curve(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw each exit's loss over the steps.

    Args:
        lines: Lines of the metrics file.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    depths = sorted({int(depth) for line in lines for depth in line["exits"]})
    for depth in depths:
        known = [line for line in lines if str(depth) in line["exits"]]
        axes.plot(
            [line["step"] for line in known],
            [line["exits"][str(depth)]["loss"] for line in known],
            label=f"exit {depth}",
            linewidth=1.2,
        )
    axes.set_xlabel("step")
    axes.set_ylabel("Mask2Former loss of the exit")
    axes.grid(alpha=0.3)
    if depths:
        axes.legend()
    buffer = io.BytesIO()
    # The default metadata names the matplotlib version.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
