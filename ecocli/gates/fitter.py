"""A gate for a price or for a budget: fits heads, prices exits, and searches the price that meets a budget.

Axes: N images, E exits on offer, D features.
A gate chooses the exit of greatest ``score - price * cost`` with the mean cost of each exit. For the quality head the
score is the expected quality and the price is beta. For the class head the scores know their beta already, and the
price is 0, or the small offset that makes the mean cost meet a budget that lies between two neighbouring betas.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ecocli.config.fit_gate import HeadName, LossName
from ecocli.gates.class_head import HeadFit, WarmStart, fit_class_head
from ecocli.gates.quality_head import fit_quality_head
from ecocli.gates.rows import TrainingRows
from ecocli.gates.solver import LinearHead
from ecocli.losses.gate import loss_targets


@dataclass(frozen=True, eq=False)
class FittedGate:
    """A gate ready to choose.

    Attributes:
        head: Which kind of head.
        fit: The head and how it was found.
        beta: Price of cost that it was fitted to, or, for the quality head, that it applies.
        price: What is taken off the scores per unit of mean cost: beta for the quality head, else the offset.
        exit_costs: Mean cost of each exit on the training images.
    """

    head: HeadName
    fit: HeadFit
    beta: float
    price: float
    exit_costs: Float64[np.ndarray, " E"]

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


@dataclass(eq=False)
class GateFitter:
    """Fits gates on one set of training images; keeps what neighbouring fits can use.

    Attributes:
        rows: The training images.
        loss: For the class head.
        l2: Fixed regularisation strength; None chooses by cross-validation.
        folds: Of the cross-validation.
        seed: Deals the rows into folds.
    """

    rows: TrainingRows
    loss: LossName
    l2: float | None
    folds: int
    seed: int
    _warm: dict[int, WarmStart] = field(default_factory=dict)
    _quality_fit: HeadFit | None = None

    def fit(self, head: HeadName, exits: int, beta: float, *, l2: float | None = None) -> FittedGate:
        """Fit a gate over the first exits.

        Args:
            head: Which kind of head.
            exits: E.
            beta: Price of one unit of cost.
            l2: For the class head: this strength without a cross-validation, as in a search for a budget.
        """
        costs = self.rows.mean_costs(exits)
        if head == "quality":
            if self._quality_fit is None:
                self._quality_fit = fit_quality_head(
                    self.rows.features, self.rows.worth, folds=self.folds, seed=self.seed
                )
            return FittedGate("quality", _first_exits(self._quality_fit, exits), beta, beta, costs)
        fitted = fit_class_head(
            self.rows.features,
            loss_targets(self.rows.utilities(exits, beta), self.loss),
            self.loss,
            l2=self.l2 if l2 is None else l2,
            folds=self.folds,
            seed=self.seed,
            warm=self._warm.get(exits),
        )
        if fitted.warm is not None:
            former = self._warm.get(exits)
            # A fit at a given strength leaves no folds behind; those of an earlier one still help.
            keep = fitted.warm.position is None and former is not None
            self._warm[exits] = replace(former, state=fitted.warm.state) if keep and former else fitted.warm
        return FittedGate("class", fitted, beta, 0.0, costs)


def _first_exits(fit: HeadFit, exits: int) -> HeadFit:
    """The quality head predicts every exit by itself, so fewer exits are some of its rows."""
    head = LinearHead(fit.head.weight[:exits], fit.head.bias[:exits])
    return replace(fit, head=head)


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
