"""Budget in, beta out: finds the price of compute at which a gate keeps to a budget or to a loss of quality.

Axes: N images, E exits.
Cost falls as beta grows, in steps: neighbouring betas differ by the images whose target moves. The search brackets the
budget between a beta that is too dear and one that is not, halves the bracket, and then lets the dearer gate pay a
small offset per unit of cost, which moves one image at a time. Measured on held-out images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int64

from ecocli.config.fit_gate import HeadName
from ecocli.errors import UsageError
from ecocli.gates.fitter import FittedGate, GateFitter, price_for_budget
from ecocli.losses.gate import target_exit_indices
from ecocli.metrics.controls import Arena

Assignment = Int64[np.ndarray, " N"]

_SMALLEST_BETA = 1e-9
_CLASS_STEPS = 8
_QUALITY_STEPS = 24


@dataclass(frozen=True)
class TradeOff:
    """What the search saw at one beta.

    Attributes:
        beta: Price of one unit of cost.
        value: What the budget limits: GFLOPs, milliseconds; PQ for a limit on quality.
    """

    beta: float
    value: float
    pq: float
    gflops: float


@dataclass(frozen=True)
class Standing:
    """Where a gate stands with its budget, on held-out images.

    Attributes:
        option: The command line's name for the budget.
        unit: Of the figures below: GFLOPs, ms, or points of PQ lost to the deepest exit.
        reached: What the gate takes of it.
        end: The infeasible end: less than this no gate takes.
    """

    option: str
    unit: str
    limit: float
    reached: float
    end: float


@dataclass(frozen=True, eq=False)
class Found:
    """The gate that a search settled on.

    Attributes:
        seen: The trade-offs it was chosen from, by ascending beta.
        standing: Where it stands with the budget; None where a price was given.
    """

    gate: FittedGate
    seen: tuple[TradeOff, ...] = ()
    standing: Standing | None = None


@dataclass(frozen=True)
class Budget:
    """A limit on the mean cost of an image.

    Attributes:
        option: The command line's name for it, for messages.
        costs: Cost of each held-out image at each exit, the gate's own included.
    """

    option: str
    limit: float
    unit: str
    costs: Float[np.ndarray, "N E"]

    def mean(self, assignment: Assignment) -> float:
        """Mean cost of an assignment of exit indices."""
        return float(np.take_along_axis(self.costs, assignment[:, None], axis=1).mean())


@dataclass(eq=False)
class GateSearch:
    """Searches betas for one head and one set of exits.

    Attributes:
        arena: Held-out images.
    """

    fitter: GateFitter
    head: HeadName
    arena: Arena
    raw: Float[np.ndarray, "N D"]

    def within_budget(self, budget: Budget) -> Found:
        """Find the gate of lowest beta whose mean cost keeps to a budget.

        Raises:
            UsageError: Even the cheapest exit costs more.
        """
        fixed = [budget.mean(self.arena.counts.fixed_assignment(e)) for e in range(self.arena.num_exits)]
        if budget.limit < min(fixed):
            depth = self.arena.exit_depths[int(np.argmin(fixed))]
            raise UsageError(
                f"{budget.option} is {budget.limit:g}, but every image at exit {depth}, the cheapest, already costs "
                f"{min(fixed):.4g} {budget.unit} on average. Feasible are {min(fixed):.4g} to {max(fixed):.4g}."
            )
        low, _, seen = self._bracket(
            lambda chosen: budget.mean(chosen), lambda value: value > budget.limit, self._guess(budget)
        )
        scores = replace(low, price=0.0).linear.scores(self.raw)
        price = price_for_budget(scores, low.exit_costs, budget.mean, budget.limit, low.price)
        gate = self._priced(low, price)
        # The search works in float64, inference in float32: an image at the very edge may fall on the other side.
        while budget.mean(gate.choose(self.raw)) > budget.limit and price < 1e12:
            price = price * (1.0 + 1e-5) + 1e-12
            gate = self._priced(low, price)
        reached = budget.mean(gate.choose(self.raw))
        return Found(gate, seen, Standing(budget.option, budget.unit, budget.limit, reached, min(fixed)))

    def within_pq_drop(self, reference_pq: float, drop: float) -> Found:
        """Find the gate of highest beta whose PQ stays close to a reference.

        Args:
            reference_pq: PQ to compare with, 0..1.
            drop: Largest loss, 0..1.

        Raises:
            UsageError: The loss is larger even where compute costs nothing.
        """
        limit = reference_pq - drop
        low, _, seen = self._bracket(lambda chosen: self.arena.choice(chosen).pq, lambda value: value >= limit, None)
        best = max(seen, key=lambda trade_off: trade_off.pq)
        least = 100.0 * (reference_pq - best.pq)
        reached = self.arena.choice(low.choose(self.raw)).pq
        if reached < limit:
            raise UsageError(
                f"--max-pq-drop is {100 * drop:g} points, but the gate of the best quality found (beta "
                f"{best.beta:.3g}) loses {least:.3g} points against the deepest exit's "
                f"{100 * reference_pq:.2f}. Allow at least that much."
            )
        lost = 100.0 * (reference_pq - reached)
        return Found(low, seen, Standing("--max-pq-drop", "PQ lost", 100.0 * drop, lost, least))

    @staticmethod
    def _priced(gate: FittedGate, price: float) -> FittedGate:
        return replace(gate, price=price, beta=price if gate.head == "quality" else gate.beta)

    def _guess(self, budget: Budget) -> float | None:
        """The beta at which the training targets keep to the budget, at each exit's mean cost."""
        rows, E = self.fitter.rows, self.arena.num_exits
        fixed = np.array([budget.mean(self.arena.counts.fixed_assignment(e)) for e in range(E)])
        low, high = math.log(1e-7), math.log(1.0)
        for _ in range(20):
            middle = (low + high) / 2.0
            targets = target_exit_indices(rows.utilities(E, math.exp(middle))).numpy()
            too_dear = fixed[targets].mean() > budget.limit
            low, high = (middle, high) if too_dear else (low, middle)
        return math.exp(high)

    def _bracket(
        self, measure: Callable[[Assignment], float], is_dear: Callable[[float], bool], guess: float | None
    ) -> tuple[FittedGate, FittedGate, tuple[TradeOff, ...]]:
        """Return the last gate on the dear side and the first beyond it, and all that was seen.

        Where beta 0 is not on the dear side, both are the gate of beta 0.
        """
        seen: dict[float, TradeOff] = {}
        l2: float | None = None

        def attempt(beta: float) -> tuple[FittedGate, bool]:
            nonlocal l2
            # The strength is chosen once per search: the steps of a search must differ by beta alone.
            gate = self.fitter.fit(self.head, self.arena.num_exits, beta, l2=l2)
            if self.head == "class" and gate.fit.path:
                l2 = gate.fit.l2
            chosen = gate.choose(self.raw)
            value, choice = measure(chosen), self.arena.choice(chosen)
            seen[beta] = TradeOff(beta, value, choice.pq, choice.gflops)
            return gate, is_dear(value)

        def result(low: FittedGate, high: FittedGate) -> tuple[FittedGate, FittedGate, tuple[TradeOff, ...]]:
            return low, high, tuple(seen[beta] for beta in sorted(seen))

        beta = 1e-4 if guess is None else guess
        gate, dear = attempt(beta)
        low: FittedGate | None = gate if dear else None
        high: FittedGate | None = None if dear else gate
        while low is None:
            beta = beta / 8.0 if beta > _SMALLEST_BETA else 0.0
            gate, dear = attempt(beta)
            if dear:
                low = gate
            elif beta == 0.0:
                return result(gate, gate)
            else:
                high = gate
        while high is None:
            beta = max(beta * 8.0, _SMALLEST_BETA)
            gate, dear = attempt(beta)
            if not dear:
                high = gate
            elif beta > 1e6:  # even the cheapest exit is on this side: nothing to choose between
                return result(gate, gate)
            else:
                low = gate
        for _ in range(_CLASS_STEPS if self.head == "class" else _QUALITY_STEPS):
            middle = math.sqrt(max(low.beta, _SMALLEST_BETA) * high.beta)
            if not low.beta < middle < high.beta:
                break
            gate, dear = attempt(middle)
            low, high = (gate, high) if dear else (low, gate)
        return result(low, high)
