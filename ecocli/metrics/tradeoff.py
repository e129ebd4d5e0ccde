"""Curves of quality against compute that a gate is drawn between: blends below it, the attainable and the oracle above.

Axes: N images, E exits. Every point is exact arithmetic on the counts of a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ecocli.metrics.assignment import choice_within, oracle_assignment
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.results import ResultTable

PRICES = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Prices of one encoder layer, in PQ (0..1), at which the oracle is drawn."""


@dataclass(frozen=True)
class CurvePoint:
    """One point of a curve.

    Attributes:
        pq: Quality of the data set, PQ or AP, 0..1.
    """

    gflops: float
    pq: float


def blend_curve(table: ExitTable[ResultTable], steps: int = 10) -> list[CurvePoint]:
    """Follow the blends of neighbouring exits from the shallowest to the deepest; images are dealt out blindly."""
    costs = table.gflops.mean(axis=0)
    E = len(table.exit_depths)
    points = []
    for place in np.linspace(0, E - 1, (E - 1) * steps + 1):
        lower = min(int(place), max(E - 2, 0))
        mixture = np.zeros(E)
        mixture[lower] = 1.0 - (place - lower)
        if E > 1:
            mixture[lower + 1] = place - lower
        points.append(CurvePoint(float(mixture @ costs), table.counts.mixture_quality(mixture)))
    return points


def oracle_curve(table: ExitTable[ResultTable], prices: Sequence[float] = PRICES) -> list[CurvePoint]:
    """Follow the oracle from dear compute to free: each image's best exit by PQ less price times depth.

    Returns:
        By ascending cost, without repetitions; the last point is the oracle of quality.
    """
    rows = np.arange(len(table.quality))
    points: dict[float, CurvePoint] = {}
    for price in prices:
        choice = oracle_assignment(table.quality - price * np.array(table.exit_depths, np.float64))
        cost = float(table.gflops[rows, choice].mean())
        points.setdefault(cost, CurvePoint(cost, table.counts.assignment_quality(choice)))
    return [points[cost] for cost in sorted(points)]


def attainable_curve(
    table: ExitTable[ResultTable], mirror: Float64[np.ndarray, "N E"], steps: int = 3
) -> list[CurvePoint]:
    """Follow what is attainable from the shallowest exit's cost to the deepest's; see ``ExitTable.attainable``.

    Args:
        mirror: What each exit is worth on each image's mirror image.
        steps: Points from exit to exit.

    Returns:
        By ascending cost, without repetitions.
    """
    costs = np.sort(table.gflops.mean(axis=0))
    E = len(costs)
    places = np.linspace(0, E - 1, (E - 1) * steps + 1)
    points: dict[float, CurvePoint] = {}
    for budget in np.interp(places, np.arange(E), costs):
        point = place_choice(table, choice_within(mirror, table.gflops, float(budget)))
        points.setdefault(point.gflops, point)
    return [points[cost] for cost in sorted(points)]


def place_choice(table: ExitTable[ResultTable], choice: Int64[np.ndarray, " N"]) -> CurvePoint:
    """Place a choice of exit indices by arithmetic, without running anything."""
    gflops = table.gflops[np.arange(len(choice)), choice].mean()
    return CurvePoint(float(gflops), table.counts.assignment_quality(choice))
