"""A gate for a price or for a budget: fits heads, prices exits, and searches the price that meets a budget.

Axes: N images, E exits on offer, D features.
A gate chooses the exit of greatest ``score - price * cost`` with the mean cost of each exit. For the quality head the
score is the expected quality and the price is beta. For the class head the scores know their beta already, and the
price is 0, or the small offset that makes the mean cost meet a budget that lies between two neighbouring betas.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ecocli.config.fit_gate import GateFitConfig, HeadName, LossName, SelectName
from ecocli.gates.class_head import HeadFit, WarmStart, fit_class_head, held_out_scores
from ecocli.gates.quality_head import fit_quality_head
from ecocli.gates.rows import TrainingRows
from ecocli.gates.solver import LinearHead, fold_standardisation
from ecocli.losses.gate import loss_targets
from ecocli.metrics.bootstrap import percentile_interval
from ecocli.metrics.controls import Arena
from ecocli.runtime.seeds import torch_generator

_BUDGET_SHARES = (0.1, 0.25, 0.5, 0.75)
_LOWEST_PRICE, _HIGHEST_PRICE, _PRICE_STEPS = 1e-9, 1e3, 30
_IMAGES_FOR_PRICES = 10_000
_REPLICATES = 200
_CHANCE = 0.01
"""Deviation of a blind gate's price from image to image, as a share of what depth gains per unit of cost."""


@dataclass(frozen=True, eq=False)
class FittedGate:
    """A gate ready to choose.

    Attributes:
        beta: Price of cost that it was fitted to, or, for the quality head, that it applies.
        price: What is taken off the scores per unit of mean cost: beta for the quality head, else the offset.
        exit_costs: Mean cost of each exit on the training images.
        blind: Whether the features decide nothing: a blend of fixed exits, see ``GateFitter.blind``.
    """

    head: HeadName
    fit: HeadFit
    beta: float
    price: float
    exit_costs: Float64[np.ndarray, " E"]
    blind: bool = False

    @property
    def linear(self) -> LinearHead:
        """The layer with the price taken off its bias: its argmax is the exit."""
        bias = self.fit.head.bias - self.price * torch.from_numpy(self.exit_costs)
        return LinearHead(self.fit.head.weight, bias)

    def choose(self, raw: Float[np.ndarray, "N D"]) -> Int64[np.ndarray, " N"]:
        """Exit index for each image, in float32 as at inference."""
        return choose(self.linear.scores(raw))


def choose(scores: Float[Tensor, "N E"]) -> Int64[np.ndarray, " N"]:
    """Exit index of greatest score, the shallowest of equals."""
    chosen: Int64[np.ndarray, " N"] = scores.argmax(dim=1).numpy()
    return chosen


@dataclass(frozen=True)
class OutOfFoldLead:
    """What a gate is worth on the images it was fitted on, each decided by a fit that left its fold out.

    Attributes:
        lead: PQ less that of the best blend of fixed exits of equal cost.
        interval: Its central 95 % interval.
    """

    lead: float
    deviation: float
    interval: tuple[float, float]

    @property
    def pays(self) -> bool:
        """Whether the lead is larger than its standard error."""
        return self.lead > self.deviation


@dataclass(eq=False)
class GateFitter:
    """Fits gates on one set of training images; keeps what neighbouring fits can use.

    Attributes:
        loss: For the class head.
        l2: Fixed regularisation strength; None chooses by cross-validation.
        select: What the cross-validation looks at: the loss, or the lead over the blend of equal cost.
        replicates: Of the bootstrap behind the out-of-fold lead.
        blind: Fit no head at all: an image's exit hangs on the price and on chance alone.
    """

    rows: TrainingRows
    exit_depths: tuple[int, ...]
    loss: LossName
    l2: float | None
    folds: int
    seed: int
    select: SelectName = "loss"
    replicates: int = _REPLICATES
    blind: bool = False
    _warm: dict[int, WarmStart] = field(default_factory=dict)
    _quality_fit: dict[int, HeadFit] = field(default_factory=dict)
    _arenas: dict[int, Arena] = field(default_factory=dict)

    @classmethod
    def of(cls, config: GateFitConfig, rows: TrainingRows, exit_depths: Sequence[int]) -> "GateFitter":
        """Fit as a configuration says."""
        return cls(
            rows,
            tuple(exit_depths),
            config.loss,
            config.l2,
            config.folds,
            config.seed,
            config.select,
            min(config.bootstrap_replicates, _REPLICATES),
        )

    def fit(self, head: HeadName, exits: int, beta: float, *, l2: float | None = None) -> FittedGate:
        """Fit a gate over the first exits.

        Args:
            l2: For the class head: this strength without a cross-validation, as in a search for a budget.
        """
        costs = self.rows.mean_costs(exits)
        l2 = self.l2 if l2 is None else l2
        if self.blind:
            fitted = self._blind_fit(exits)
            if head == "class":
                bias = fitted.head.bias - beta * torch.from_numpy(costs)
                fitted = replace(fitted, head=LinearHead(fitted.head.weight, bias))
            return FittedGate(head, fitted, beta, beta if head == "quality" else 0.0, costs, blind=True)
        if head == "quality":
            if exits not in self._quality_fit:
                fitted = fit_quality_head(
                    self.rows.features,
                    self.rows.worth[:, :exits],
                    l2=l2,
                    folds=self.folds,
                    seed=self.seed,
                    worth=self._mean_lead if self.select == "lead" and l2 is None else None,
                )
                self._quality_fit[exits] = replace(fitted, head=self.rows.on_raw(fitted.head))
            return FittedGate("quality", self._quality_fit[exits], beta, beta, costs)
        fitted = fit_class_head(
            self.rows.features,
            loss_targets(self.rows.utilities(exits, beta), self.loss),
            self.loss,
            l2=l2,
            folds=self.folds,
            seed=self.seed,
            warm=self._warm.get(exits),
            worth=self._lead if self.select == "lead" else None,
        )
        if fitted.warm is not None:
            former = self._warm.get(exits)
            # A fit at a given strength leaves no folds behind; those of an earlier one still help.
            keep = fitted.warm.position is None and former is not None
            self._warm[exits] = replace(former, state=fitted.warm.state) if keep and former else fitted.warm
        return FittedGate("class", replace(fitted, head=self.rows.on_raw(fitted.head)), beta, 0.0, costs)

    def out_of_fold(self, gate: FittedGate, own_gflops: float) -> OutOfFoldLead | None:
        """Say what a gate's choices are worth where each image's own fold was left out; None where there are no folds.

        Args:
            own_gflops: What the gate itself costs per image.
        """
        E, scores = len(gate.exit_costs), gate.fit.out_of_fold
        if scores is None and gate.head == "class" and gate.fit.warm is not None:
            targets = loss_targets(self.rows.utilities(E, gate.beta), self.loss)
            scores = held_out_scores(self.rows.features, targets, self.loss, gate.fit.l2, self.folds, self.seed)
        if scores is None:
            return None
        arena = self._arena(E)
        chosen = choose(scores[: self.rows.images].double() - gate.price * torch.from_numpy(gate.exit_costs))
        replicates = arena.lead_replicates(chosen, own_gflops)
        return OutOfFoldLead(
            arena.lead(chosen, own_gflops), float(np.nanstd(replicates)), percentile_interval(replicates)
        )

    def _arena(self, exits: int) -> Arena:
        if exits not in self._arenas:
            self._arenas[exits] = self.rows.split.arena(self.exit_depths[:exits], self.replicates, self.seed)
        return self._arenas[exits]

    def _lead(self, scores: Float[Tensor, "N E"]) -> float:
        """The lead on the images; their mirror images only teach."""
        # The gate's own GFLOPs are left out: the gate of every strength costs the same, about 1e-5 where a step between
        # exits costs some GFLOPs, and that takes as good as the same off each lead. The lead that is told counts them.
        return self._arena(scores.shape[1]).lead(choose(scores[: self.rows.images]))

    def _mean_lead(self, scores: Float[Tensor, "N E"]) -> float:
        """The mean lead over budgets between the cheapest and the dearest exit: a quality head serves every price.

        A price is searched on some of the images; the lead, over a blend of whatever it costs there, is that of all.
        """
        arena = self._arena(scores.shape[1])
        costs = self.rows.mean_costs(scores.shape[1])
        values = scores[: self.rows.images].double().numpy()
        some = values[:: -(-len(values) // _IMAGES_FOR_PRICES)]
        leads = []
        for share in _BUDGET_SHARES:
            low, high = _LOWEST_PRICE, _HIGHEST_PRICE
            budget = costs.min() + share * (costs.max() - costs.min())
            for _ in range(_PRICE_STEPS):
                middle = math.sqrt(low * high)
                too_dear = costs[(some - middle * costs).argmax(axis=1)].mean() > budget
                low, high = (middle, high) if too_dear else (low, middle)
            leads.append(arena.lead((values - high * costs).argmax(axis=1)))
        return float(np.mean(leads))

    def _blind_fit(self, exits: int) -> HeadFit:
        """The blend of fixed exits as a gate: each exit's PQ, and a little chance in what an image pays for cost.

        Chance is a seeded direction of the features, at right angles to what depth gains. With its size going to 0 the
        images at one price share out over the exits of the hull of cost and PQ, so that every budget can be met.
        """
        arena, features = self._arena(exits), self.rows.raw
        costs = torch.from_numpy(self.rows.mean_costs(exits))
        pq = torch.tensor([choice.pq for choice in arena.fixed], dtype=torch.float64).nan_to_num()
        values = features.values
        generator = torch_generator("gate-blend", self.seed)
        direction = torch.randn(values.shape[1], generator=generator, dtype=torch.float64)
        worth = self.rows.worth[:, :exits]
        gain = (values.T @ (worth[:, -1] - worth[:, 0]).float()).double()
        direction -= (direction @ gain) / (gain @ gain).clamp(min=1e-30) * gain
        direction /= (values @ direction.float()).double().std(correction=0).clamp(min=1e-30)
        span = float(costs.max() - costs.min())
        size = _CHANCE * float(pq.max() - pq.min()) / span if span > 0 else 0.0
        head = fold_standardisation(size * costs[:, None] * direction, pq, features)
        return HeadFit(head, 0.0, (), 0.0, 0, None)


def price_for_budget(
    scores: Float[Tensor, "N E"],
    exit_costs: Float64[np.ndarray, " E"],
    mean_cost: Callable[[Int64[np.ndarray, " N"]], float],
    budget: float,
    lowest: float = 0.0,
) -> float:
    """Find the smallest price at which the mean cost of the choices keeps to a budget.

    Args:
        scores: Of each exit, before any price.
        exit_costs: What the price is multiplied with.
        mean_cost: Mean cost of a choice of exit indices.
        budget: Largest mean cost; no less than the cheapest exit's.
        lowest: Price to start from.
    """
    values = scores.double().numpy()

    def cost_at(price: float) -> float:
        priced: Int64[np.ndarray, " N"] = (values - price * exit_costs).argmax(axis=1)
        return mean_cost(priced)

    if cost_at(lowest) <= budget:
        return lowest
    high = max(lowest, 1e-9)
    while cost_at(high) > budget:
        high *= 4.0
        if high > 1e12:  # exits of equal cost cannot be told apart by a price
            return high
    low = lowest
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if cost_at(middle) <= budget else (middle, high)
    return high
