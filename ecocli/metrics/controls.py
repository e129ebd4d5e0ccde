"""A gate's choices beside everything they must be compared with.

Axes: N images, E exits, R bootstrap replicates.
Controls of an assignment of exits to images: every fixed exit; the exit that is the target most often; the best blend
of fixed exits of equal cost; a random gate of the same mixture; the oracle of quality, and the oracle of the utility
that the gate was fitted to; and, where mirror images were measured, what is attainable: the exits that the truth about
the mirror images would choose at the gate's cost, scored on the images. Oracles choose by luck too, this one cannot.
All PQs are those of the whole data set, by arithmetic on the recorded counts.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ecocli.config.fit_gate import CostUnit
from ecocli.metrics.assignment import mixture_of, oracle_assignment, random_assignment_pq
from ecocli.metrics.bootstrap import compare
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.results import ResultTable

RANDOM_DRAWS = 20


@dataclass(frozen=True)
class Choice:
    """One way of choosing exits.

    Attributes:
        pq: Of the data set, 0..1; NaN where undefined.
        cost: Mean per image, in the unit of the cost model.
        encoder_gflops: The pixel decoder's share of it.
        exit_shares: Share of the images at each exit.
    """

    pq: float
    cost: float
    gflops: float
    encoder_gflops: float
    mean_depth: float
    exit_shares: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """A gate and its controls on the same images.

    Attributes:
        unit: What the blend of equal cost has equal.
        best_fixed: Exit index of the fixed exit with the best PQ, the shallowest of equals.
        majority: Exit index that is the target of most training images.
        blend: Best blend of at most two fixed exits that costs no more than the gate; None without such a blend.
        lead: PQ of gate minus blend.
        lead_interval: Bootstrap interval of it, over images, both on the same resampled images.
        random: Image-blind gate of the same mixture, at its expected counts.
        random_spread: Standard deviation of PQ over shuffles of the gate's choices.
        oracle: Each image at its exit of best quality.
        utility_oracle: Each image at its target exit.
        attainable: Each image at the exit of most worth to its mirror image, for no more than the gate costs; None
            where mirror images were not measured.
        accuracy: Share of images with a target on which the gate takes it.
        majority_accuracy: The same for the majority exit.
    """

    unit: CostUnit
    gate: Choice
    pq_interval: tuple[float, float]
    fixed: tuple[Choice, ...]
    best_fixed: int
    majority: int
    blend: Choice | None
    lead: float
    lead_interval: tuple[float, float]
    random: Choice
    random_spread: float
    oracle: Choice
    utility_oracle: Choice
    attainable: Choice | None
    accuracy: float
    majority_accuracy: float

    @property
    def reached(self) -> float:
        """Share of the attainable lead that the gate has; NaN where nothing is attainable, or it was not measured."""
        if self.attainable is None or self.blend is None or self.attainable.pq <= self.blend.pq:
            return float("nan")
        return self.lead / (self.attainable.pq - self.blend.pq)

    @property
    def beats_blend(self) -> bool:
        """Whether the whole interval of the lead lies above zero."""
        return self.lead_interval[0] > 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Arena(ExitTable[ResultTable]):
    """The images that gates are scored on, with what all gates share computed once.

    Attributes:
        costs: Cost of each image at each exit, in the unit of the cost model.
        worth: What the utility of an exit is made of before its cost; the quality, if left out.
        milliseconds: Measured cost of each image at each exit, where equal cost is to mean ms; GFLOPs if left out.
        mirror: What each exit is worth on each image's mirror image, by its contribution to the data set's quality.
    """

    costs: Float64[np.ndarray, "N E"]
    worth: Float64[np.ndarray, "N E"] | None = None
    milliseconds: Float64[np.ndarray, "N E"] | None = None
    mirror: Float64[np.ndarray, "N E"] | None = None

    @property
    def unit(self) -> CostUnit:
        """In what the blend of equal cost costs the same as the gate."""
        return "GFLOPs" if self.milliseconds is None else "ms"

    @property
    def spent(self) -> Float64[np.ndarray, "N E"]:
        """Cost of each image at each exit in that unit."""
        return self.gflops if self.milliseconds is None else self.milliseconds

    def _own_cost(self, own_gflops: float) -> float:
        # Measured milliseconds of an exit do not hold the gate, which is below what a clock tells.
        return own_gflops if self.milliseconds is None else 0.0

    @cached_property
    def scorable(self) -> Bool[np.ndarray, " N"]:
        """Images with a defined quality at every exit on offer."""
        scorable: Bool[np.ndarray, " N"] = ~np.isnan(self.quality).any(axis=1)
        return scorable

    @cached_property
    def fixed(self) -> tuple[Choice, ...]:
        """Every fixed exit."""
        return tuple(self.choice(self.counts.fixed_assignment(e)) for e in range(self.num_exits))

    def choice(self, assignment: Int64[np.ndarray, " N"]) -> Choice:
        """Score an assignment of exit indices to images."""
        return self._choice(
            self.counts.assignment_quality(assignment), assignment, mixture_of(assignment, self.num_exits)
        )

    def blend(self, mixture: Float64[np.ndarray, " E"]) -> Choice:
        """Score an image-blind mixture at its expected counts."""
        return self._choice(self.counts.mixture_quality(mixture), None, mixture)

    def _choice(
        self, pq: float, assignment: Int64[np.ndarray, " N"] | None, mixture: Float64[np.ndarray, " E"]
    ) -> Choice:
        def mean(costs: Float64[np.ndarray, "N E"]) -> float:
            if assignment is None:
                return float(costs.mean(axis=0) @ mixture)
            return float(np.take_along_axis(costs, assignment[:, None], axis=1).mean())

        return Choice(
            pq=pq,
            cost=mean(self.costs),
            gflops=mean(self.gflops),
            encoder_gflops=mean(self.encoder_gflops),
            mean_depth=float(mixture @ np.array(self.exit_depths, np.float64)),
            exit_shares=tuple(mixture.tolist()),
        )

    def judge(
        self,
        assignment: Int64[np.ndarray, " N"],
        beta: float,
        majority: int,
        *,
        own_cost: float = 0.0,
        own_gflops: float = 0.0,
        draws: int = RANDOM_DRAWS,
    ) -> Verdict:
        """Score a gate's choices beside their controls.

        Args:
            assignment: Exit index the gate takes for each image.
            beta: Price of one unit of cost, for the utility.
            majority: Exit index that is the target of most training images.
            own_cost: What the gate itself costs per image, in the unit of the cost model; it counts as spent.
            own_gflops: The same in GFLOPs.
            draws: Shuffles of the choices.
        """
        gate, fixed = self.choice(assignment), self.fixed
        gate = replace(gate, cost=gate.cost + own_cost, gflops=gate.gflops + own_gflops)
        utilities = (self.quality if self.worth is None else self.worth) - beta * self.costs
        targets = oracle_assignment(utilities)
        mixture = self.equal_mixture(assignment, own_gflops)
        blend = None if mixture is None else self.blend(mixture)
        nan = float("nan")
        pq_interval, lead_interval = (nan, nan), (nan, nan)
        if mixture is not None:
            quality = self.quality_replicates(assignment, mixture)
            comparison = compare(quality[:, 0], quality[:, 1])
            pq_interval, lead_interval = comparison.pq, comparison.lead
        spread = random_assignment_pq(self.counts, assignment, draws, self.seed) if draws else np.array([nan])
        fixed_pq = np.array([choice.pq for choice in fixed])
        scored = self.scorable
        return Verdict(
            unit=self.unit,
            gate=gate,
            pq_interval=pq_interval,
            fixed=fixed,
            best_fixed=0 if np.isnan(fixed_pq).all() else int(np.nanargmax(fixed_pq)),
            majority=majority,
            blend=blend,
            lead=nan if blend is None else gate.pq - blend.pq,
            lead_interval=lead_interval,
            random=self.blend(mixture_of(assignment, self.num_exits)),
            random_spread=float(spread.std()),
            oracle=self.choice(self.oracle),
            utility_oracle=self.choice(targets),
            attainable=None
            if self.mirror is None
            else self.choice(self.attainable(self.mirror, assignment, own_gflops)),
            accuracy=_share(assignment[scored] == targets[scored]),
            majority_accuracy=_share(targets[scored] == majority),
        )


def _share(hits: Bool[np.ndarray, " n"]) -> float:
    return float(hits.mean()) if hits.size else float("nan")
