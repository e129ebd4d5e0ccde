"""An evaluation's rows: each fixed exit, the gate, a random mixture like the gate's, what is attainable, the oracle.

Axes: N images, E exits, K classes. A gate's quality means something only beside its controls, so all of them stand in
one table: what every image would get at one exit; what a coin with the gate's exit frequencies would get (expected
counts, exactly); what the truth about the mirror images would choose, where it is known; what choosing each image's
best exit would get. Counts decide all rows; the gate's are those of its real run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from ecocli.metrics.assignment import CountTable, mixture_of
from ecocli.metrics.bootstrap import one_hot, percentile_interval
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.panoptic_quality import ImageCounts
from ecocli.metrics.results import ResultTable

ORACLE = "oracle"
RANDOM = "random"
GATE = "gate"
ATTAINABLE = "attainable"
QualityT = TypeVar("QualityT")


@dataclass(frozen=True, eq=False)
class GateRun(Generic[QualityT]):
    """What the gate did on the network.

    Attributes:
        depths: Encoder layers each image ran.
        value: The one number of it that gates are judged by; None where undefined.
        gflops: What the gate itself costs per image.
    """

    depths: Int64[np.ndarray, " N"]
    quality: QualityT
    value: float | None
    gflops: float


@dataclass(frozen=True)
class ScoreRow(Generic[QualityT]):
    """One way of choosing exits.

    Attributes:
        name: ``exit 4``, ``gate``, ``random``, ``attainable`` or ``oracle``.
        quality: As the task measures it.
        gflops: Mean cost of an image, in GFLOPs.
        encoder_gflops: The pixel decoder's share of it.
        exit_shares: Share of the images at each exit.
    """

    name: str
    quality: QualityT
    gflops: float
    encoder_gflops: float
    mean_depth: float
    exit_shares: tuple[float, ...]


@dataclass(frozen=True)
class GateLead:
    """The gate's quality against that of the best blend of fixed exits that costs no more.

    Attributes:
        mixture: The blend's share of each exit; of at most two.
        lead: Of the gate, less that.
        reached: Share of the attainable lead that the gate has; None where nothing is attainable, or not measured.
    """

    mixture: tuple[float, ...]
    control_pq: float
    lead: float
    low: float
    high: float
    confidence: float
    replicates: int
    reached: float | None = None


def image_qualities(counts: CountTable) -> Float64[np.ndarray, "N E"]:
    """Return each image's PQ at each exit; NaN where there is nothing to score."""
    cell = counts.image * counts.num_exits + counts.exit_index
    cells = counts.num_images * counts.num_exits
    total = np.bincount(cell, counts.iou_sum / counts.halves, cells).astype(np.float64)
    number = np.bincount(cell, minlength=cells)
    quality: Float64[np.ndarray, " _cells"] = np.divide(total, number, out=np.full(cells, np.nan), where=number > 0)
    return quality.reshape(counts.num_images, counts.num_exits)


def expected_counts(counts: CountTable, weights: Float64[np.ndarray, "N E"]) -> ImageCounts:
    """Sum the expected counts of all images under exit probabilities per image."""
    share = weights[counts.image, counts.exit_index]
    sums = [
        np.bincount(counts.class_index, values * share, counts.num_classes).astype(np.float64)
        for values in (counts.iou_sum, counts.tp, counts.fp, counts.fn)
    ]
    return ImageCounts(*sums)


def score_rows(
    table: ExitTable[ResultTable],
    gate: GateRun[QualityT] | None,
    quality_of: Callable[[Float64[np.ndarray, "N E"]], QualityT],
    mirror: Float64[np.ndarray, "N E"] | None = None,
) -> list[ScoreRow[QualityT]]:
    """Score every fixed exit, the gate with its controls if there is one, and the oracle.

    Args:
        mirror: What each exit is worth on each image's mirror image; without it nothing is said about the attainable.
    """
    N, E = table.gflops.shape
    weights = {f"exit {depth}": np.broadcast_to(np.eye(E)[e], (N, E)) for e, depth in enumerate(table.exit_depths)}
    if gate is not None:
        assignment = table.exit_index(gate.depths)
        weights[GATE] = one_hot(assignment, E)
        weights[RANDOM] = np.broadcast_to(mixture_of(assignment, E), (N, E))
        if mirror is not None:
            weights[ATTAINABLE] = one_hot(table.attainable(mirror, assignment, gate.gflops), E)
    weights[ORACLE] = one_hot(table.oracle, E)
    rows = []
    for name, chosen in weights.items():
        run = gate if name == GATE else None
        rows.append(
            ScoreRow(
                name=name,
                quality=quality_of(chosen) if run is None else run.quality,
                gflops=float((chosen * table.gflops).sum() / N) + (0.0 if run is None else run.gflops),
                encoder_gflops=float((chosen * table.encoder_gflops).sum() / N),
                mean_depth=float((chosen @ np.array(table.exit_depths, np.float64)).mean()),
                # Shares are counts over N; the last digits of a mean would tell equal ones apart.
                exit_shares=tuple(chosen.mean(axis=0).round(12).tolist()),
            )
        )
    return rows


def gate_lead(
    table: ExitTable[ResultTable],
    gate: GateRun[QualityT],
    confidence: float = 0.95,
    mirror: Float64[np.ndarray, "N E"] | None = None,
) -> GateLead | None:
    """Compare the gate with the best blend of at most two fixed exits of equal cost.

    Args:
        gate: The gate's run; its own cost is part of the budget.
        mirror: What each exit is worth on each image's mirror image, where that is known.

    Returns:
        The lead with its interval; None where the quality is undefined.
    """
    assignment = table.exit_index(gate.depths)
    mixture = table.equal_mixture(assignment, gate.gflops)
    if mixture is None or gate.value is None:
        return None
    control = table.counts.mixture_quality(mixture)
    low, high = percentile_interval(table.lead_replicates(assignment, gate.gflops), confidence)
    lead, reached = gate.value - control, None
    if mirror is not None:
        attainable = table.counts.assignment_quality(table.attainable(mirror, assignment, gate.gflops)) - control
        reached = lead / attainable if attainable > 0.0 else None
    return GateLead(tuple(mixture.tolist()), control, lead, low, high, confidence, table.replicates, reached)
