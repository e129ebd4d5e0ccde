"""Bootstrap intervals of panoptic quality over images, for gates and their controls.

Axes: N images, E exits, K classes, M mixtures, R replicates.
Each replicate draws N images with replacement. How often each image is drawn is one row of a matrix; its product with
the images' counts sums every replicate and class at once (``CountTable.totals_of_replicates``).
Intervals are central percentiles. Definitions of counts, mixtures and their PQ: ``ecocli.metrics.assignment``.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64


def one_hot(assignment: Int64[np.ndarray, " N"], num_exits: int) -> Float64[np.ndarray, "N E"]:
    """Write an assignment as exit probabilities."""
    weights: Float64[np.ndarray, "N E"] = np.eye(num_exits)[assignment]
    return weights


def percentile_interval(samples: Float64[np.ndarray, " R"], confidence: float = 0.95) -> tuple[float, float]:
    """Give the central percentile interval of bootstrap samples; undefined ones are left out."""
    defined = samples[~np.isnan(samples)]
    if defined.size == 0:
        return float("nan"), float("nan")
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class BootstrapComparison:
    """PQ of an assignment and its lead over a control on the same resampled images, with 95 % intervals.

    Attributes:
        lead: Interval of assignment minus control, in PQ.
    """

    pq: tuple[float, float]
    lead: tuple[float, float]


def compare(quality: Float64[np.ndarray, " R"], control: Float64[np.ndarray, " R"]) -> BootstrapComparison:
    """Compare an assignment with a control on the same replicates."""
    return BootstrapComparison(percentile_interval(quality), percentile_interval(quality - control))
