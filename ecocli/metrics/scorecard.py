"""An evaluation's rows: each fixed exit, the gate, a random mixture like the gate's, what is attainable, the oracle.

Axes: N images, E exits, K classes. A gate's quality means something only beside its controls, so all of them stand in
one table: what every image would get at one exit; what a coin with the gate's exit frequencies would get (expected
counts, exactly); what the truth about the mirror images would choose, where it is known; what choosing each image's
best exit would get. Counts decide all rows; the gate's are those of its real run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ecocli.metrics.assignment import CountTable, mixture_of, oracle_assignment
from ecocli.metrics.bootstrap import one_hot, percentile_interval
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.panoptic_quality import ImageCounts, PanopticQuality, panoptic_quality

ORACLE = "oracle"
RANDOM = "random"
GATE = "gate"
ATTAINABLE = "attainable"


@dataclass(frozen=True, eq=False)
class GateRun:
    """What the gate did on the network.

    Attributes:
        depths: Encoder layers each image ran.
        counts: Panoptic counts of its predictions, summed over the images.
        gflops: What the gate itself costs per image.
    """

    depths: Int64[np.ndarray, " N"]
    counts: ImageCounts
    gflops: float


@dataclass(frozen=True)
class ScoreRow:
    """One way of choosing exits.

    Attributes:
        name: ``exit 4``, ``gate``, ``random``, ``attainable`` or ``oracle``.
        quality: Panoptic quality.
        gflops: Mean cost of an image, in GFLOPs.
        encoder_gflops: The pixel decoder's share of it.
        mean_depth: Mean encoder layers run.
        exit_shares: Share of the images at each exit.
    """

    name: str
    quality: PanopticQuality
    gflops: float
    encoder_gflops: float
    mean_depth: float
    exit_shares: tuple[float, ...]


@dataclass(frozen=True)
class GateLead:
    """The gate's PQ against the best blend of fixed exits that costs no more.

    Attributes:
        mixture: The blend's share of each exit; of at most two.
        control_pq: Its PQ.
        lead: PQ(gate) - PQ(blend).
        low: Lower end of the lead's bootstrap interval.
        high: Upper end.
        confidence: Of the interval.
        replicates: Bootstrap replicates.
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
    table: ExitTable[CountTable],
    is_thing: Sequence[bool],
    gate: GateRun | None,
    mirror: Float64[np.ndarray, "N E"] | None = None,
) -> list[ScoreRow]:
    """Score every fixed exit, the gate with its controls if there is one, and the oracle.

    Args:
        table: Counts and costs at every exit.
        is_thing: By class.
        gate: The gate's run.
        mirror: What each exit is worth on each image's mirror image; without it nothing is said about the attainable.
    """
    N, E = table.gflops.shape
    oracle = one_hot(oracle_assignment(image_qualities(table.counts)), E)
    weights = {f"exit {depth}": np.broadcast_to(np.eye(E)[e], (N, E)) for e, depth in enumerate(table.exit_depths)}
    if gate is not None:
        assignment = table.exit_index(gate.depths)
        weights[GATE] = one_hot(assignment, E)
        weights[RANDOM] = np.broadcast_to(mixture_of(assignment, E), (N, E))
        if mirror is not None:
            weights[ATTAINABLE] = one_hot(table.attainable(mirror, assignment, gate.gflops), E)
    weights[ORACLE] = oracle
    rows = []
    for name, chosen in weights.items():
        is_gate = gate is not None and name == GATE
        counts = gate.counts if gate is not None and is_gate else expected_counts(table.counts, chosen)
        own_gflops = gate.gflops if gate is not None and is_gate else 0.0
        rows.append(
            ScoreRow(
                name=name,
                quality=panoptic_quality(counts, is_thing),
                gflops=float((chosen * table.gflops).sum() / N) + own_gflops,
                encoder_gflops=float((chosen * table.encoder_gflops).sum() / N),
                mean_depth=float((chosen @ np.array(table.exit_depths, np.float64)).mean()),
                # Shares are counts over N; the last digits of a mean would tell equal ones apart.
                exit_shares=tuple(chosen.mean(axis=0).round(12).tolist()),
            )
        )
    return rows


def gate_lead(
    table: ExitTable[CountTable],
    gate: GateRun,
    confidence: float = 0.95,
    mirror: Float64[np.ndarray, "N E"] | None = None,
) -> GateLead | None:
    """Compare the gate with the best blend of at most two fixed exits of equal cost.

    Args:
        table: Counts and costs at every exit.
        gate: The gate's run; its own cost is part of the budget.
        confidence: Of the interval.
        mirror: What each exit is worth on each image's mirror image, where that is known.

    Returns:
        The lead with its interval; None where PQ is undefined.
    """
    assignment = table.exit_index(gate.depths)
    mixture = table.equal_mixture(assignment, gate.gflops)
    pq = panoptic_quality(gate.counts).pq
    if mixture is None or pq is None:
        return None
    control = table.counts.mixture_quality(mixture)
    low, high = percentile_interval(table.lead_replicates(assignment, gate.gflops), confidence)
    reached = None
    if mirror is not None:
        attainable = table.counts.assignment_quality(table.attainable(mirror, assignment, gate.gflops)) - control
        reached = (pq - control) / attainable if attainable > 0.0 else None
    return GateLead(tuple(mixture.tolist()), control, pq - control, low, high, confidence, table.replicates, reached)
