"""An evaluation's rows: each fixed exit, the gate, a random mixture like the gate's, and the oracle.

Axes: N images, E exits, K classes. A gate's quality means something only beside its controls, so all of them stand in
one table: what every image would get at one exit; what a coin with the gate's exit frequencies would get (expected
counts, exactly); what choosing each image's best exit would get. Counts decide all rows; the gate's are those of its
real run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ecocli.metrics.assignment import (
    CountTable,
    best_fixed_mixture,
    bootstrap_totals,
    mixture_of,
    oracle_assignment,
    pq_of_totals,
)
from ecocli.metrics.bootstrap import one_hot, percentile_interval, stack_weights
from ecocli.metrics.panoptic_quality import ImageCounts, PanopticQuality, panoptic_quality

ORACLE = "oracle"
RANDOM = "random"
GATE = "gate"


@dataclass(frozen=True, eq=False)
class ExitTable:
    """Counts and costs of every image at every fixed exit.

    Attributes:
        exit_depths: Ascending, in encoder layers run.
        counts: Panoptic counts.
        gflops: Whole cost of an image at an exit, in GFLOPs (one multiply-add counts once).
        encoder_gflops: The pixel decoder's share of it.
    """

    exit_depths: tuple[int, ...]
    counts: CountTable
    gflops: Float64[np.ndarray, "N E"]
    encoder_gflops: Float64[np.ndarray, "N E"]

    def exit_index(self, depths: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        """Turn depths, each one of the exits, into exit indices."""
        return np.searchsorted(np.array(self.exit_depths), depths).astype(np.int64)


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
        name: ``exit 4``, ``gate``, ``random`` or ``oracle``.
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
    """

    mixture: tuple[float, ...]
    control_pq: float
    lead: float
    low: float
    high: float
    confidence: float
    replicates: int


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


def score_rows(table: ExitTable, is_thing: Sequence[bool], gate: GateRun | None) -> list[ScoreRow]:
    """Score every fixed exit, the gate with its random control if there is one, and the oracle."""
    N, E = table.gflops.shape
    oracle = one_hot(oracle_assignment(image_qualities(table.counts)), E)
    weights = {f"exit {depth}": np.broadcast_to(np.eye(E)[e], (N, E)) for e, depth in enumerate(table.exit_depths)}
    if gate is not None:
        assignment = table.exit_index(gate.depths)
        weights[GATE] = one_hot(assignment, E)
        weights[RANDOM] = np.broadcast_to(mixture_of(assignment, E), (N, E))
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


def gate_lead(table: ExitTable, gate: GateRun, replicates: int, seed: int, confidence: float = 0.95) -> GateLead | None:
    """Compare the gate with the best blend of at most two fixed exits of equal cost.

    Args:
        table: Counts and costs at every exit.
        gate: The gate's run; its own cost is part of the budget.
        replicates: Bootstrap replicates over images; gate and blend share each one.
        seed: Of the replicates.
        confidence: Of the interval.

    Returns:
        The lead with its interval; None where PQ is undefined.
    """
    E = len(table.exit_depths)
    assignment = table.exit_index(gate.depths)
    budget = float(np.take_along_axis(table.gflops, assignment[:, None], axis=1).mean()) + gate.gflops
    mixture = best_fixed_mixture(table.counts, table.gflops.mean(axis=0), budget)
    pq = panoptic_quality(gate.counts).pq
    if mixture is None or pq is None:
        return None
    control = table.counts.mixture_quality(mixture)
    fixed = [table.counts.fixed_assignment(e) for e in range(E)]
    totals = bootstrap_totals(table.counts, stack_weights([assignment, *fixed], E), replicates, seed)
    blended = np.einsum("e,retk->rtk", mixture, totals[:, 1:])
    low, high = percentile_interval(pq_of_totals(totals[:, 0]) - pq_of_totals(blended), confidence)
    return GateLead(tuple(mixture.tolist()), control, pq - control, low, high, confidence, replicates)
