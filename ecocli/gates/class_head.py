"""The gate's class head, with its regularisation chosen by cross-validation on the training table.

Shapes: N images, D features, E exits, F folds.
The head of the paper: scores whose argmax is the exit, fitted to one of the losses of ``ecocli.losses.gate`` by
``ecocli.gates.solver``; it knows one beta.

Regularisation: the held-out loss chooses, climbing from 0.1 in powers of ten until both neighbours of the best are
worse, then in half-steps; each fit starts from the nearest one. Folds depend on the seed and the number of images only.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ecocli.config.fit_gate import LossName
from ecocli.gates.solver import (
    LinearHead,
    SolverState,
    StandardisedFeatures,
    fold_standardisation,
    solve,
)
from ecocli.losses.gate import gate_loss
from ecocli.runtime.seeds import torch_generator

_ABSENT_EXIT_LOGIT = -1e4
"""Bias of an exit that is no image's target under hard-CE: its optimum, minus infinity, has no number."""

L2_GRID: tuple[float, ...] = tuple(10.0 ** (1 - step / 2) for step in range(13))
"""Regularisation strengths tried by the cross-validation, strongest first: 10 down to 1e-5."""

Worth = Callable[[Float[Tensor, "N E"]], float]
"""What out-of-fold scores are worth; the strength of greatest worth is chosen."""

_FIRST_POSITION = 4
_FOLD_TOLERANCE = 3e-3
_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class WarmStart:
    """What a fit leaves behind for a neighbouring one, such as the next beta.

    Attributes:
        state: Solution on all rows.
        position: Place of the chosen strength in ``L2_GRID``; None where it was given.
        fold_states: Solutions of the cross-validation by place.
    """

    state: SolverState
    position: int | None
    fold_states: Mapping[int, SolverState]


@dataclass(frozen=True, eq=False)
class HeadFit:
    """A fitted head and how it was found.

    Attributes:
        head: On raw features.
        l2: Chosen regularisation strength; of the differences between exits for the quality head.
        path: Strengths tried and the mean held-out loss of each; empty without a cross-validation.
        gradient_norm: At the solution; 0 where it is in closed form.
        evaluations: Passes over the features in the final fit.
        warm: For a neighbouring fit; None for the quality head and for a constant one.
        out_of_fold: Scores of the images fitted on, each from a fit that left its fold out; None without folds.
    """

    head: LinearHead
    l2: float
    path: tuple[tuple[float, float], ...]
    gradient_norm: float
    evaluations: int
    warm: WarmStart | None
    out_of_fold: Float[Tensor, "N E"] | None = None


def folds_of_rows(images: int, folds: int, seed: int, copies: int = 1) -> Int[Tensor, " N"]:
    """Cut the images, in the data set's order, into runs of equal length, give or take one: one fold each.

    Neighbours are often frames of one film: dealt out one by one, each would have its like in another fold, and what is
    measured out of fold would be too good. Where the first run begins is drawn, and the last goes on at the start. All
    copies of an image are in its fold.
    """
    start = torch.randint(images, (), generator=torch_generator("gate-folds", seed))
    fold_of_image = (torch.arange(images) + start) % images * folds // images
    return fold_of_image.repeat(copies)


def fit_class_head(
    features: StandardisedFeatures,
    targets: Float[Tensor, "N E"],
    loss: LossName,
    *,
    l2: float | None = None,
    folds: int = 5,
    seed: int = 0,
    warm: WarmStart | None = None,
    worth: Worth | None = None,
) -> HeadFit:
    """Fit a linear layer whose argmax is the exit.

    An exit that is the target of no image is never chosen under ``hard-ce``; where one exit is the target of all
    images, every image takes it.

    Args:
        features: Standardised features.
        targets: From ``ecocli.losses.gate.loss_targets``.
        l2: Regularisation strength; chosen by cross-validation when not given.
        folds: Parts of the cross-validation; no more than there are images, and a single one is fitted with the
            strongest regularisation.
        warm: Left behind by a neighbouring problem over the same exits; the optimum is the same without.
        worth: Chooses the strength by what the held-out scores are worth instead of by their loss.
    """
    E = targets.shape[1]
    present = targets.sum(dim=0) > 0 if loss == "hard-ce" else torch.ones(E, dtype=torch.bool)
    if int(present.sum()) <= 1:
        return _constant(features, present)
    targets = targets[:, present].float()
    if warm is not None and warm.state.weight.shape[1:] != (targets.shape[1], features.values.shape[1]):
        warm = None
    folds = min(folds, features.num_images)

    def whole(scores: Float[Tensor, "N _e"]) -> Float[Tensor, "N E"]:
        """Scores of all exits; one that is no target is never chosen."""
        every = torch.full((len(scores), E), _ABSENT_EXIT_LOGIT)
        every[:, present] = scores
        return every

    path: tuple[tuple[float, float], ...] = ()
    position: int | None = None
    fold_states: dict[int, SolverState] = {}
    start = None if warm is None else warm.state
    if l2 is None and folds < 2:
        l2 = L2_GRID[0]
    elif l2 is None:
        position, path, fold_states = _cross_validate(
            features, targets, loss, folds, seed, warm, None if worth is None else lambda scores: worth(whole(scores))
        )
        l2 = L2_GRID[position]
        start = _average(fold_states[position]) if start is None else start
    state = solve(features, targets, loss, l2, start=start)
    weight = torch.zeros(E, features.values.shape[1], dtype=torch.float64)
    bias = torch.full((E,), _ABSENT_EXIT_LOGIT, dtype=torch.float64)
    weight[present], bias[present] = state.weight[0], state.bias[0]
    head = fold_standardisation(weight, bias, features)
    out_of_fold = None
    if position is not None:
        fold_of_row = folds_of_rows(features.num_images, folds, seed, features.copies)
        out_of_fold = whole(_held_out_scores(features, fold_of_row, fold_states[position]))
    kept = WarmStart(state, position, fold_states)
    return HeadFit(head, l2, path, state.gradient_norm, state.evaluations, kept, out_of_fold)


def held_out_scores(
    features: StandardisedFeatures,
    targets: Float[Tensor, "N E"],
    loss: LossName,
    l2: float,
    folds: int,
    seed: int,
) -> Float[Tensor, "N E"] | None:
    """Score every row with a fit of this strength that left the row's fold out; None where there is one image only."""
    folds = min(folds, features.num_images)
    if folds < 2:
        return None
    fold_of_row = folds_of_rows(features.num_images, folds, seed, features.copies)
    state = solve(features, targets.float(), loss, l2, fold_of_row=fold_of_row, folds=folds, tolerance=_FOLD_TOLERANCE)
    return _held_out_scores(features, fold_of_row, state)


def _constant(features: StandardisedFeatures, present: Tensor) -> HeadFit:
    """The head that sends every image to the one exit that is a target, or to the first where none is."""
    E, D = len(present), features.values.shape[1]
    bias = torch.full((E,), _ABSENT_EXIT_LOGIT, dtype=torch.float64)
    bias[int(present.to(torch.uint8).argmax())] = 0.0
    head = LinearHead(torch.zeros(E, D, dtype=torch.float64), bias)
    return HeadFit(head, L2_GRID[0], (), 0.0, 0, None)


def _average(folds: SolverState) -> SolverState:
    """The mean of the folds' solutions, a start for the fit of all rows."""
    return dataclasses.replace(
        folds,
        weight=folds.weight.mean(dim=0, keepdim=True),
        bias=folds.bias.mean(dim=0, keepdim=True),
        objective=folds.objective.mean(dim=0, keepdim=True),
    )


def _cross_validate(
    features: StandardisedFeatures,
    targets: Float[Tensor, "N E"],
    loss: LossName,
    folds: int,
    seed: int,
    warm: WarmStart | None,
    worth: Worth | None,
) -> tuple[int, tuple[tuple[float, float], ...], dict[int, SolverState]]:
    """Return the place of the best strength, the path, and the folds' solutions by place."""
    fold_of_row = folds_of_rows(features.num_images, folds, seed, features.copies)
    known = {} if warm is None else {p: s for p, s in warm.fold_states.items() if len(s.weight) == folds}
    states: dict[int, SolverState] = {}
    losses: dict[int, float] = {}

    def best_position() -> int:
        return min(losses, key=losses.__getitem__)

    def attempt(position: int) -> None:
        starts = known if position in known else {**known, **states}
        nearest = min(starts, key=lambda other: abs(other - position), default=None)
        states[position] = solve(
            features,
            targets,
            loss,
            L2_GRID[position],
            fold_of_row=fold_of_row,
            folds=folds,
            start=None if nearest is None else starts[nearest],
            tolerance=_FOLD_TOLERANCE,
        )
        scores = _held_out_scores(features, fold_of_row, states[position])
        if worth is None:
            losses[position] = float(gate_loss(scores, targets, loss).mean(dtype=torch.float64))
        else:
            losses[position] = -worth(scores)

    def climb(step: int) -> None:
        """Try the neighbours of the best until both are worse."""
        while True:
            beside = (best_position() - step, best_position() + step)
            untried = [position for position in beside if 0 <= position < len(L2_GRID) and position not in losses]
            if not untried:
                return
            for position in untried:
                attempt(position)

    if worth is not None:  # not convex in the strength, and as good as free next to the first stage: look everywhere
        for position in range(0, len(L2_GRID), 2):
            attempt(position)
    elif warm is not None and warm.position is not None and known:
        # A neighbouring beta wants about the same strength.
        attempt(warm.position)
    else:
        attempt(_FIRST_POSITION)
        climb(2)
    climb(1)
    path = tuple((L2_GRID[position], losses[position]) for position in sorted(losses))
    return best_position(), path, states


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
