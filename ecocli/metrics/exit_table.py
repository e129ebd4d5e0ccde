"""Results and costs of every image at every exit, and what a choice of exits leads the blend of equal cost by.

Axes: N images, E exits, R bootstrap replicates.
The blend is the test of a gate's worth: at most two fixed exits, dealt out without a look at the image, for no more
than the gate's choices and the gate itself cost. It is bought here and nowhere else, so that fit-gate, sweep, eval and
report mean the same by it.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from ecocli.metrics.assignment import best_fixed_mixture, choice_within, oracle_assignment
from ecocli.metrics.bootstrap import one_hot
from ecocli.metrics.results import ResultTable

Results = TypeVar("Results", bound=ResultTable, covariant=True)


@dataclass(frozen=True, eq=False)
class ExitTable(Generic[Results]):
    """Results and costs of every image at every fixed exit.

    Attributes:
        exit_depths: Exits on offer, ascending, in encoder layers run.
        quality: Quality of each image at each exit; NaN where there is nothing to score.
        gflops: Whole cost of an image at an exit, in GFLOPs (one multiply-add counts once).
        encoder_gflops: The pixel decoder's share of it.
        replicates: R.
        seed: Of bootstrap and shuffles.
    """

    exit_depths: tuple[int, ...]
    counts: Results
    quality: Float64[np.ndarray, "N E"]
    gflops: Float64[np.ndarray, "N E"]
    encoder_gflops: Float64[np.ndarray, "N E"]
    replicates: int = 1000
    seed: int = 0

    @property
    def num_exits(self) -> int:
        """E."""
        return len(self.exit_depths)

    @property
    def spent(self) -> Float64[np.ndarray, "N E"]:
        """Cost of each image at each exit, in the unit in which costs are to be equal."""
        return self.gflops

    @property
    def oracle(self) -> Int64[np.ndarray, " N"]:
        """Each image's exit of best quality."""
        return oracle_assignment(self.quality)

    def exit_index(self, depths: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        """Turn depths, each one of the exits, into exit indices."""
        return np.searchsorted(np.array(self.exit_depths), depths).astype(np.int64)

    def equal_mixture(
        self, assignment: Int64[np.ndarray, " N"], own_gflops: float = 0.0
    ) -> Float64[np.ndarray, " E"] | None:
        """Find the best blend of at most two fixed exits that costs no more than a gate's choices and the gate itself.

        Args:
            own_gflops: What the gate costs per image.
        """
        spent = float(np.take_along_axis(self.spent, assignment[:, None], axis=1).mean()) + self._own_cost(own_gflops)
        return best_fixed_mixture(self.counts, self.spent.mean(axis=0), spent)

    def attainable(
        self, mirror: Float64[np.ndarray, "N E"], assignment: Int64[np.ndarray, " N"], own_gflops: float = 0.0
    ) -> Int64[np.ndarray, " N"]:
        """Choose the exits of most worth to the mirror images, for no more than a gate's choices and the gate cost.

        Args:
            mirror: What each exit is worth on each image's mirror image.
            own_gflops: What the gate costs per image.
        """
        spent = float(np.take_along_axis(self.spent, assignment[:, None], axis=1).mean()) + self._own_cost(own_gflops)
        return choice_within(mirror, self.spent, spent)

    def _own_cost(self, own_gflops: float) -> float:
        """Give the gate's own cost in the unit of ``spent``."""
        return own_gflops

    def lead(self, assignment: Int64[np.ndarray, " N"], own_gflops: float = 0.0) -> float:
        """Give the choices' quality less that of the blend of equal cost; NaN where there is no such blend."""
        mixture = self.equal_mixture(assignment, own_gflops)
        if mixture is None:
            return float("nan")
        return float(self.counts.assignment_quality(assignment) - self.counts.mixture_quality(mixture))

    def lead_replicates(
        self, assignment: Int64[np.ndarray, " N"], own_gflops: float = 0.0
    ) -> Float64[np.ndarray, " R"]:
        """Give the lead on each bootstrap replicate, gate and blend on the same images."""
        mixture = self.equal_mixture(assignment, own_gflops)
        if mixture is None:
            return np.full(self.replicates, np.nan)
        quality = self.quality_replicates(assignment, mixture)
        leads: Float64[np.ndarray, " R"] = quality[:, 0] - quality[:, 1]
        return leads

    def quality_replicates(
        self, assignment: Int64[np.ndarray, " N"], mixture: Float64[np.ndarray, " E"]
    ) -> Float64[np.ndarray, "R 2"]:
        """Give the quality of an assignment and of a blend on the same resampled images."""
        weights = np.stack([one_hot(assignment, self.num_exits), np.broadcast_to(mixture, self.gflops.shape)])
        return self.counts.replicates(weights, self.replicates, self.seed)
