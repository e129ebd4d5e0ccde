"""Generated count tables, qualities and features for the tests of Steps B and C."""

import numpy as np

from ecocli.metrics.assignment import CountTable


def random_counts(seed: int, images: int, exits: int, classes: int) -> tuple[np.ndarray, ...]:
    """Draw dense IoU sums, TP, FP and FN [N, E, K]; about half of all cells are empty."""
    rng = np.random.default_rng(seed)
    shape = (images, exits, classes)
    occupied = rng.random(shape) < 0.5
    tp, fp, fn = (rng.integers(0, 4, shape) * occupied for _ in range(3))
    iou_sum = tp * rng.uniform(0.5, 1.0, shape)
    return iou_sum, tp, fp, fn


def random_table(seed: int, images: int, exits: int, classes: int) -> CountTable:
    """Draw a count table."""
    return CountTable.from_dense(*random_counts(seed, images, exits, classes))


def plain_pq(iou_sum: np.ndarray, tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> float:
    """Average PQ over the classes of summed counts [K], one class at a time in plain Python."""
    values = [
        float(i) / (float(t) + 0.5 * float(p) + 0.5 * float(n))
        for i, t, p, n in zip(iou_sum, tp, fp, fn, strict=True)
        if t + p + n > 0
    ]
    return sum(values) / len(values) if values else float("nan")


def plain_assignment_pq(counts: tuple[np.ndarray, ...], assignment: np.ndarray) -> float:
    """Sum the counts of the chosen exits image by image, then average over classes."""
    sums = [sum(array[n, e] for n, e in enumerate(assignment)) for array in counts]
    return plain_pq(*sums)
