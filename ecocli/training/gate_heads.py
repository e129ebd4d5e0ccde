"""The two linear heads of the gate, each with its regularisation chosen by cross-validation on the training table.

Shapes: N images, D features, E exits, F folds.
``class`` head (the paper's): scores whose argmax is the exit; fitted to one of the losses of ``ecocli.losses.gate``
by ``ecocli.training.gate_fit``; it knows one beta. ``quality`` head (not in the paper): predicts the panoptic quality
at every exit by ridge regression, so that any beta can be applied afterwards: the exit is the argmax of predicted
quality less beta times cost. Only differences between exits decide, and they are far smaller than what all exits of
an image share; so the shared level and the differences get a regularisation strength each.

Regularisation: powers of ten from the strongest down, each fit starting from the last, until two in a row were worse
than the best; then the half-steps beside the best. The held-out loss chooses. Folds depend on the seed and the number
of rows only.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ecocli.losses.gate import GateLoss, gate_loss
from ecocli.runtime.seeds import torch_generator
from ecocli.training.gate_fit import (
    LinearHead,
    SolverState,
    StandardisedFeatures,
    fold_standardisation,
    second_moments,
    solve,
)

_ABSENT_EXIT_LOGIT = -1e4
"""Bias of an exit that is no image's target under hard-CE: its optimum, minus infinity, has no number."""

L2_GRID: tuple[float, ...] = tuple(10.0 ** (1 - step / 2) for step in range(13))
"""Regularisation strengths tried by the cross-validation, strongest first: 10 down to 1e-5."""


_WORSE_IN_A_ROW = 2
_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class HeadFit:
    """A fitted head and how it was found.

    Attributes:
        head: On raw features.
        l2: Chosen regularisation strength; of the differences between exits for the quality head.
        path: Strengths tried and the mean held-out loss of each; empty without a cross-validation.
        gradient_norm: At the solution; 0 where it is in closed form.
        evaluations: Passes over the features in the final fit.
        state: Warm start for a neighbouring fit; None for the quality head.
    """

    head: LinearHead
    l2: float
    path: tuple[tuple[float, float], ...]
    gradient_norm: float
    evaluations: int
    state: SolverState | None


def folds_of_rows(rows: int, folds: int, seed: int) -> Int[Tensor, " N"]:
    """Deal the rows into folds of equal size, give or take one, at random."""
    order = torch.randperm(rows, generator=torch_generator("gate-folds", seed))
    fold_of_row = torch.empty(rows, dtype=torch.int64)
    fold_of_row[order] = torch.arange(rows) % folds
    return fold_of_row


def fit_class_head(
    features: StandardisedFeatures,
    targets: Float[Tensor, "N E"],
    loss: GateLoss,
    *,
    l2: float | None = None,
    folds: int = 5,
    seed: int = 0,
    start: SolverState | None = None,
) -> HeadFit:
    """Fit a linear layer whose argmax is the exit.

    An exit that is the target of no image is never chosen under ``hard-ce``; where one exit is the target of all
    images, every image takes it.

    Args:
        features: Standardised features.
        targets: From ``ecocli.losses.gate.loss_targets``.
        loss: Which loss the targets are for.
        l2: Regularisation strength; chosen by cross-validation when not given.
        folds: Parts of the cross-validation; no more than there are rows, and a single row is fitted with the
            strongest regularisation.
        seed: Deals the rows into folds.
        start: Solution of a neighbouring problem with the same exits.
    """
    E = targets.shape[1]
    present = targets.sum(dim=0) > 0 if loss == "hard-ce" else torch.ones(E, dtype=torch.bool)
    if int(present.sum()) <= 1:
        return _constant(features, present)
    targets = targets[:, present].float()
    if start is not None and start.weight.shape[1:] != (targets.shape[1], features.values.shape[1]):
        start = None
    folds = min(folds, len(targets))
    path: tuple[tuple[float, float], ...] = ()
    if l2 is None and folds < 2:
        l2 = L2_GRID[0]
    elif l2 is None:
        l2, path, start = _cross_validate(features, targets, loss, folds, seed)
    state = solve(features, targets, loss, l2, start=start)
    weight = torch.zeros(E, features.values.shape[1], dtype=torch.float64)
    bias = torch.full((E,), _ABSENT_EXIT_LOGIT, dtype=torch.float64)
    weight[present], bias[present] = state.weight[0], state.bias[0]
    head = fold_standardisation(weight, bias, features)
    return HeadFit(head, l2, path, state.gradient_norm, state.evaluations, state)


def _constant(features: StandardisedFeatures, present: Tensor) -> HeadFit:
    """The head that sends every image to the one exit that is a target, or to the first where none is."""
    E, D = len(present), features.values.shape[1]
    bias = torch.full((E,), _ABSENT_EXIT_LOGIT, dtype=torch.float64)
    bias[int(present.to(torch.uint8).argmax())] = 0.0
    head = LinearHead(torch.zeros(E, D, dtype=torch.float64), bias)
    return HeadFit(head, L2_GRID[0], (), 0.0, 0, None)


def _cross_validate(
    features: StandardisedFeatures, targets: Float[Tensor, "N E"], loss: GateLoss, folds: int, seed: int
) -> tuple[float, tuple[tuple[float, float], ...], SolverState]:
    """Return the best strength, the path and a warm start for the fit of all rows."""
    fold_of_row = folds_of_rows(len(targets), folds, seed)
    states: dict[int, SolverState] = {}
    losses: dict[int, float] = {}

    def best_position() -> int:
        return min(losses, key=losses.__getitem__)

    def attempt(position: int) -> None:
        nearest = min(states, key=lambda known: abs(known - position), default=None)
        start = None if nearest is None else states[nearest]
        l2 = L2_GRID[position]
        states[position] = solve(
            features, targets, loss, l2, fold_of_row=fold_of_row, folds=folds, start=start, tolerance=3e-3
        )
        scores = _held_out_scores(features, fold_of_row, states[position])
        losses[position] = float(gate_loss(scores, targets, loss).mean(dtype=torch.float64))

    # Every other strength first, then the neighbours of the best.
    for position in range(0, len(L2_GRID), 2):
        attempt(position)
        if position - best_position() >= 2 * _WORSE_IN_A_ROW:
            break
    coarse_best = best_position()
    for position in (coarse_best - 1, coarse_best + 1):
        if 0 <= position < len(L2_GRID):
            attempt(position)
    best = best_position()
    middle = dataclasses.replace(
        states[best],
        weight=states[best].weight.mean(dim=0, keepdim=True),
        bias=states[best].bias.mean(dim=0, keepdim=True),
        objective=states[best].objective.mean(dim=0, keepdim=True),
    )
    path = tuple((L2_GRID[position], losses[position]) for position in sorted(losses))
    return L2_GRID[best], path, middle


def _held_out_scores(
    features: StandardisedFeatures, fold_of_row: Int[Tensor, " N"], state: SolverState
) -> Float[Tensor, "N E"]:
    """Score every row with the fit that left it out."""
    F, E, D = state.weight.shape
    weight, bias = state.weight.reshape(F * E, D).float(), state.bias.reshape(F * E).float()
    scores = torch.empty(len(fold_of_row), E)
    for start in range(0, len(fold_of_row), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        all_fits = torch.nn.functional.linear(features.values[rows], weight, bias).view(-1, F, E)
        scores[rows] = all_fits[torch.arange(len(all_fits)), fold_of_row[rows]]
    return scores


def fit_quality_head(
    features: StandardisedFeatures, quality: Float[Tensor, "N E"], *, folds: int = 5, seed: int = 0
) -> HeadFit:
    """Fit a linear layer that predicts the quality at every exit, by ridge regression in closed form.

    Args:
        features: Standardised features.
        quality: Panoptic quality in 0..1, defined at every exit.
        folds: Parts of the cross-validation, no more than there are rows.
        seed: Deals the rows into folds.
    """
    quality = quality.double()
    level = quality.mean(dim=1, keepdim=True)
    responses = torch.cat([level, quality - level], dim=1)
    fold_of_row = folds_of_rows(len(quality), min(folds, len(quality)), seed)
    parts = [
        _Moments.of(features.values[fold_of_row == fold], responses[fold_of_row == fold])
        for fold in range(int(fold_of_row.max()) + 1)
    ]
    everything = _Moments.sum_of(parts)
    chosen, path = _choose_ridge(features, responses, fold_of_row, parts, everything)
    (level_weight, level_bias), (weight, bias) = (everything.solve(l2) for l2 in chosen)
    head = fold_standardisation(weight[1:] + level_weight[:1], bias[1:] + level_bias[:1], features)
    return HeadFit(head, chosen[1], path, 0.0, 1, None)


def _choose_ridge(
    features: StandardisedFeatures,
    responses: Float64[Tensor, "N T"],
    fold_of_row: Int[Tensor, " N"],
    parts: Sequence["_Moments"],
    everything: "_Moments",
) -> tuple[tuple[float, float], tuple[tuple[float, float], ...]]:
    """Return the strengths of level (column 0) and differences (the rest), and the latter's path."""
    if len(parts) < 2:
        return (L2_GRID[0], L2_GRID[0]), ()
    T = responses.shape[1]
    errors = torch.zeros(len(L2_GRID), T, dtype=torch.float64)
    for fold, part in enumerate(parts):
        rows = (fold_of_row == fold).nonzero()[:, 0]
        rest = everything.without(part)
        solutions = [rest.solve(l2) for l2 in L2_GRID]
        weights = torch.cat([weight for weight, _ in solutions]).float()
        offsets = torch.cat([bias for _, bias in solutions])
        predicted = torch.nn.functional.linear(features.values[rows], weights).double() + offsets
        errors += (predicted.view(-1, len(L2_GRID), T) - responses[rows, None]).square().sum(dim=0) / len(responses)
    best_level = int(errors[:, 0].argmin())
    losses = errors[:, 1:].mean(dim=1)
    best = int(losses.argmin())
    path = tuple(zip(L2_GRID, losses.tolist(), strict=True))
    return (L2_GRID[best_level], L2_GRID[best]), path


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over rows that a ridge regression with a free bias needs."""

    rows: int
    features: Float64[Tensor, " D"]
    responses: Float64[Tensor, " T"]
    feature_products: Float64[Tensor, "D D"]
    response_products: Float64[Tensor, "T D"]

    @classmethod
    def of(cls, values: Float[Tensor, "n D"], responses: Float64[Tensor, "n T"]) -> "_Moments":
        return cls(
            len(values),
            values.sum(dim=0, dtype=torch.float64),
            responses.sum(dim=0),
            second_moments(values),
            (responses.float().T @ values).double(),
        )

    @classmethod
    def sum_of(cls, parts: Sequence["_Moments"]) -> "_Moments":
        return cls(
            sum(part.rows for part in parts),
            torch.stack([part.features for part in parts]).sum(dim=0),
            torch.stack([part.responses for part in parts]).sum(dim=0),
            torch.stack([part.feature_products for part in parts]).sum(dim=0),
            torch.stack([part.response_products for part in parts]).sum(dim=0),
        )

    def without(self, part: "_Moments") -> "_Moments":
        return _Moments(
            self.rows - part.rows,
            self.features - part.features,
            self.responses - part.responses,
            self.feature_products - part.feature_products,
            self.response_products - part.response_products,
        )

    def solve(self, l2: float) -> tuple[Float64[Tensor, "T D"], Float64[Tensor, " T"]]:
        """Minimise mean squared error plus ``l2 |weight|^2``."""
        mean, response_mean = self.features / self.rows, self.responses / self.rows
        moments = self.feature_products / self.rows - torch.outer(mean, mean)
        moments.diagonal().add_(l2)
        cross = self.response_products / self.rows - torch.outer(response_mean, mean)
        weight = torch.cholesky_solve(cross.T, torch.linalg.cholesky(moments)).T
        return weight, response_mean - weight @ mean
