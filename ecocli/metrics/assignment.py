"""Panoptic quality of any assignment of exits to images, by arithmetic on recorded counts.

Axes: N images, E exits, K classes, P entries of the sparse count table.
Source: the derived table of the ECO recipe (ECO-M2F, arXiv 2404.15244, section 3.2), which here also records the
counts behind each quality. The quality of a data set is not the mean over its images: it is the mean over classes of
``iou_sum / (tp + fp / 2 + fn / 2)`` with all counts summed first. The sums are linear in the assignment, so the data
set's PQ at a gate, at a fixed exit or at an oracle is exact, without running the network.

A mixture sends image n to exit e with probability ``weights[n, e]``. Its PQ is taken at the expected counts: exact
for an assignment (weights 0 and 1), and for a random one the limit of many images. The PQ of single draws scatters
around a value that lies O(1/N) away; ``random_assignment_pq`` gives those draws.

Values are fractions 0..1; NaN stands for "no class occurs, PQ undefined".
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int32, Int64

from ecocli.metrics.results import ResultTable

# Rows of the dense slices that are multiplied at a time; bounds their memory to a few dozen MB.
_IMAGES_PER_SLICE = 1024


@dataclass(frozen=True, eq=False)
class CountTable:
    """Counts per image, exit and class, stored where not all zero; entries grouped by ascending image.

    Attributes:
        num_images: N.
        num_exits: E.
        num_classes: K.
        image: Image of each entry, ascending.
        exit_index: Exit of each entry, from 0.
    """

    num_images: int
    num_exits: int
    num_classes: int
    image: Int64[np.ndarray, " P"]
    exit_index: Int64[np.ndarray, " P"]
    class_index: Int64[np.ndarray, " P"]
    iou_sum: Float64[np.ndarray, " P"]
    tp: Int32[np.ndarray, " P"]
    fp: Int32[np.ndarray, " P"]
    fn: Int32[np.ndarray, " P"]

    def __post_init__(self) -> None:
        for name, values, limit in (
            ("image", self.image, self.num_images),
            ("exit", self.exit_index, self.num_exits),
            ("class", self.class_index, self.num_classes),
        ):
            if values.size and not (values.min() >= 0 and values.max() < limit):
                raise ValueError(
                    f"{name} index of the count table spans {values.min()}..{values.max()}, "
                    f"but there are {limit}: expected 0..{limit - 1}"
                )
        if self.image.size and bool((np.diff(self.image) < 0).any()):
            raise ValueError("entries of the count table must be grouped by ascending image")

    @cached_property
    def halves(self) -> Float64[np.ndarray, " P"]:
        """``tp + fp / 2 + fn / 2`` of each entry: what PQ divides by."""
        return self.tp + 0.5 * self.fp + 0.5 * self.fn

    @cached_property
    def exit_totals(self) -> Float64[np.ndarray, "E 2 K"]:
        """IoU sums and halves when every image takes the same exit."""
        return np.stack([self.totals(self.fixed_assignment(e)) for e in range(self.num_exits)])

    def contributions(self) -> Float64[np.ndarray, "N E"]:
        """Say what each image's exit does to the data set's PQ, to first order and times N; zero is no image at all.

        With every image at the deepest exit, class c sums to ``I_c`` (IoU) and ``D_c`` (halves), ``PQ_c = I_c / D_c``.
        An image whose exit adds ``(i, d)`` moves the mean over the C classes that occur by
        ``sum_c (i_c - PQ_c d_c) / D_c / C``. So an image counts by what it holds of each class, where its own PQ weighs
        all images alike; the mean difference between two exits is the difference of the data set's PQ, to first order.
        """
        iou_sum, halves = self.exit_totals[-1]
        occurs = halves > 0
        scale = np.divide(1.0, halves, out=np.zeros_like(halves), where=occurs) * self.num_images / max(occurs.sum(), 1)
        per_class_pq = np.divide(iou_sum, halves, out=np.zeros_like(halves), where=occurs)
        c = self.class_index
        values = (self.iou_sum - per_class_pq[c] * self.halves) * scale[c]
        flat = np.bincount(self.image * self.num_exits + self.exit_index, values, self.num_images * self.num_exits)
        return flat.astype(np.float64).reshape(self.num_images, self.num_exits)

    def first_exits(self, number: int) -> "CountTable":
        """Leave out all exits but the first ones."""
        kept = self.exit_index < number
        return CountTable(
            self.num_images,
            number,
            self.num_classes,
            self.image[kept],
            self.exit_index[kept],
            self.class_index[kept],
            self.iou_sum[kept],
            self.tp[kept],
            self.fp[kept],
            self.fn[kept],
        )

    def select(self, images: Int64[np.ndarray, " S"]) -> "CountTable":
        """The counts of some images, in ascending order."""
        position = np.full(self.num_images, -1)
        position[images] = np.arange(len(images))
        kept = position[self.image] >= 0
        return CountTable(
            len(images),
            self.num_exits,
            self.num_classes,
            position[self.image[kept]],
            self.exit_index[kept],
            self.class_index[kept],
            self.iou_sum[kept],
            self.tp[kept],
            self.fp[kept],
            self.fn[kept],
        )

    def contents(self) -> Float64[np.ndarray, "N K"]:
        """True segments of each class in each image: matched and missed ones, at any exit."""
        true = np.zeros(self.num_images * self.num_classes)
        np.maximum.at(true, self.image * self.num_classes + self.class_index, (self.tp + self.fn).astype(np.float64))
        return true.reshape(self.num_images, self.num_classes)

    def assignment_quality(self, assignment: Int64[np.ndarray, " N"]) -> float:
        """Give the data set's PQ, exactly, with each image at its own exit (an index from 0)."""
        return float(pq_of_totals(self.totals(assignment)))

    def mixture_quality(self, mixture: Float64[np.ndarray, " E"]) -> float:
        """Give the data set's PQ at the expected counts of a mixture that ignores the image."""
        return float(pq_of_totals(np.tensordot(mixture, self.exit_totals, 1)))

    def replicates(
        self, weights: Float64[np.ndarray, "M N E"], replicates: int, seed: int
    ) -> Float64[np.ndarray, "R M"]:
        """Give the PQ of M mixtures on resampled images; see ``bootstrap_totals``."""
        return pq_of_totals(bootstrap_totals(self, weights, replicates, seed))

    def fixed_assignment(self, exit_index: int) -> Int64[np.ndarray, " N"]:
        """Send every image to one exit."""
        return np.full(self.num_images, exit_index, np.int64)

    def totals(self, assignment: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, "2 K"]:
        """Sum IoU and halves per class, each image at its own exit (an index from 0)."""
        taken = self.exit_index == assignment[self.image]
        classes = self.class_index[taken]
        sums = [np.bincount(classes, values[taken], self.num_classes) for values in (self.iou_sum, self.halves)]
        # bincount of nothing at all is an array of integers.
        return np.stack(sums).astype(np.float64)


def pq_of_totals(totals: Float64[np.ndarray, "*lead 2 K"]) -> Float64[np.ndarray, "*lead"]:
    """Average ``iou_sum / halves`` over the classes that occur; NaN where none does."""
    iou_sum, halves = totals[..., 0, :], totals[..., 1, :]
    occurs = halves > 0
    per_class = np.divide(iou_sum, halves, out=np.zeros_like(iou_sum), where=occurs)
    number = occurs.sum(axis=-1)
    averages: Float64[np.ndarray, "*lead"] = np.where(
        number > 0, per_class.sum(axis=-1) / np.maximum(number, 1), np.nan
    )
    return averages


def bootstrap_totals(
    table: CountTable, weights: Float64[np.ndarray, "M N E"], replicates: int, seed: int
) -> Float64[np.ndarray, "R M 2 K"]:
    """Resample the images with replacement and sum their counts under each of M mixtures.

    The mixtures share each replicate's images, so differences between them are paired.

    Args:
        weights: Exit probabilities per mixture and image; 0 and 1 for an assignment.
    """
    generator = np.random.default_rng(seed)
    N = table.num_images
    # How often each image is drawn; rows are draws from a multinomial with N trials. uint16 holds any count that
    # occurs, and keeps 1000 replicates of COCO's training images in 237 MB.
    drawn = np.empty((replicates, N), np.uint16)
    for replicate in range(replicates):
        drawn[replicate] = np.bincount(generator.integers(0, N, N), minlength=N)
    sums = np.zeros((replicates, weights.shape[0] * 2 * table.num_classes))
    for images, dense in _slices(table, weights):
        sums += drawn[:, images].astype(np.float64) @ dense
    return sums.reshape(replicates, weights.shape[0], 2, table.num_classes)


def _slices(
    table: CountTable, weights: Float64[np.ndarray, "M N E"]
) -> Iterator[tuple[slice, Float64[np.ndarray, "n MK2"]]]:
    """Yield blocks of images with their dense expected counts under each of M mixtures, in [M, 2, K] order."""
    bounds = np.searchsorted(table.image, np.arange(0, table.num_images + _IMAGES_PER_SLICE, _IMAGES_PER_SLICE))
    M, K = weights.shape[0], table.num_classes
    for number, (low, high) in enumerate(itertools.pairwise(bounds)):
        first = number * _IMAGES_PER_SLICE
        images = slice(first, min(first + _IMAGES_PER_SLICE, table.num_images))
        rows = table.image[low:high] - first
        dense = np.zeros((images.stop - first, M, 2, K))
        for mixture in range(M):
            share = weights[mixture, table.image[low:high], table.exit_index[low:high]]
            at = rows * K + table.class_index[low:high]
            for part, values in enumerate((table.iou_sum, table.halves)):
                sums = np.bincount(at, values[low:high] * share, dense.shape[0] * K)
                dense[:, mixture, part] = sums.reshape(-1, K)
        yield images, dense.reshape(dense.shape[0], -1)


def mixture_of(assignment: Int64[np.ndarray, " N"], num_exits: int) -> Float64[np.ndarray, " E"]:
    """Give the share of images at each exit."""
    return np.bincount(assignment, minlength=num_exits) / max(assignment.size, 1)


def oracle_assignment(utilities: Float64[np.ndarray, "N E"], tolerance: float = 1e-12) -> Int64[np.ndarray, " N"]:
    """Choose each image's best exit; ties go to the shallower, images with an undefined value to the shallowest.

    Args:
        utilities: Per-image PQ for the oracle of quality, or PQ less the price of the cost for the oracle of a
            budget; NaN where undefined.
        tolerance: Values closer than this are a tie.
    """
    best = utilities.max(axis=1, keepdims=True)
    # A comparison with NaN is false throughout, and argmax of an all-false row is 0.
    choice: Int64[np.ndarray, " N"] = np.argmax(utilities >= best - tolerance, axis=1)
    return choice


def choice_within(
    worth: Float64[np.ndarray, "N E"], costs: Float64[np.ndarray, "N E"], budget: float
) -> Int64[np.ndarray, " N"]:
    """Choose each image's exit of most worth less a price times its cost, at the lowest price that meets a budget.

    Args:
        worth: NaN where undefined: such an image takes the shallowest exit.
        costs: Of each image at each exit.
        budget: Largest mean cost; where it is below every choice's, the cheapest one is given.
    """

    def at(price: float) -> tuple[Int64[np.ndarray, " N"], bool]:
        choice = oracle_assignment(worth - price * costs)
        mean = float(np.take_along_axis(costs, choice[:, None], axis=1).mean())
        return choice, mean <= float(budget) * (1.0 + 1e-9)

    choice, meets = at(0.0)
    if meets:
        return choice
    low, high = 1e-12, 1e12
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if at(middle)[1] else (middle, high)
    return at(high)[0]


def random_assignment_pq(
    table: ResultTable, assignment: Int64[np.ndarray, " N"], draws: int, seed: int
) -> Float64[np.ndarray, " draws"]:
    """Give the PQ of random gates that take each exit exactly as often as the assignment does."""
    generator = np.random.default_rng(seed)
    return np.array([table.assignment_quality(generator.permutation(assignment)) for _ in range(draws)])


def best_fixed_mixture(
    table: ResultTable, exit_costs: Float64[np.ndarray, " E"], budget: float
) -> Float64[np.ndarray, " E"] | None:
    """Find the mixture of at most two fixed exits with the best PQ whose mean cost stays within a budget.

    Without a gate this is the best one can do at that cost: exits and their pairwise blends span the upper hull of
    cost and PQ. A blend's PQ is taken at its expected counts, so it is no straight line between its ends.

    Args:
        exit_costs: Mean cost of each exit over the images.
        budget: Largest mean cost allowed, in the same unit.

    Returns:
        The share of each exit, the cheapest of equally good ones; None when no exit is that cheap.
    """
    candidates: list[Float64[np.ndarray, " E"]] = []
    unit = np.eye(len(exit_costs))
    affordable = exit_costs <= budget + 1e-9 * np.abs(budget)
    for cheap in np.flatnonzero(affordable):
        candidates.append(unit[cheap])
        for costly in np.flatnonzero(~affordable):
            share = (budget - exit_costs[cheap]) / (exit_costs[costly] - exit_costs[cheap])
            candidates.append((1.0 - max(share, 0.0)) * unit[cheap] + max(share, 0.0) * unit[costly])
    if not candidates:
        return None
    quality = np.array([table.mixture_quality(candidate) for candidate in candidates])
    costs = np.array([candidate @ exit_costs for candidate in candidates])
    return candidates[int(np.lexsort((costs, -quality))[0])]
