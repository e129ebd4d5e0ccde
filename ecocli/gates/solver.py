"""Fitting a linear gate to its optimum, on the whole table at once.

Shapes: N images, D features, E exits, F fits solved together (one, or one per fold of a cross-validation).
Source: the gate of ECO-M2F (arXiv 2404.15244, section 3.3) is one linear layer on pooled features, there trained with
Adam through the whole network. With fixed features that is softmax regression: convex for the cross-entropies, so it
has one optimum, and comparisons of beta or depth are not blurred by where an optimiser stopped.

How it gets there fast: full-batch L-BFGS with strong Wolfe conditions; the weight stays [E, D], for which the gradient
product is several times faster than for [D, E]; gradients are written out, so memory stays at the features themselves.
L-BFGS works on ``V = W (c S + l2)^(1/2)`` with S the features' second moments, an approximation of every
cross-entropy's Hessian (Böhning's bound up to a factor), which takes the correlation of features out of the problem:
about 20 evaluations instead of 110. Folds of a cross-validation share each pass over the features.
Features are standardised for the fit, and the standardisation is folded into the returned weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float16, Float64, Int
from torch import Tensor

from ecocli.config.fit_gate import LossName
from ecocli.errors import DataError
from ecocli.losses.gate import gate_loss_and_gradient

_ROWS_PER_BLOCK = 4096
_COLUMNS_PER_TILE = 256
_LEAST_SPREAD = 1e-5
"""Deviation below which a mean of activations is rounding: of float32 sums, and of float16, whose steps are 6e-8."""
_CURVATURE = 0.2
"""Weight of the second moments in the preconditioner: p (1 - p) for a few equally likely exits."""


@dataclass(frozen=True, eq=False)
class StandardisedFeatures:
    """Features of all images, centred and scaled once, and shared by every fit on them.

    Attributes:
        values: Standardised features; a feature that is constant, or no more than rounding, is 0 throughout.
        scale: Standard deviations of the raw features, 1 for a constant one.
        copies: Rows of each image: the rows come in so many blocks of the same images in the same order.
    """

    values: Float[Tensor, "N D"]
    mean: Float[Tensor, " D"]
    scale: Float[Tensor, " D"]
    copies: int = 1

    @classmethod
    def from_raw(
        cls, raw: Float16[np.ndarray, "N D"] | Float[np.ndarray, "N D"], copies: int = 1
    ) -> "StandardisedFeatures":
        """Standardise raw features block by block.

        Raises:
            DataError: There is no row, or a value is NaN or infinite.
        """
        N, D = raw.shape
        if N == 0:
            raise DataError("The gate has no image to learn from: expected at least one with a defined quality.")
        values = torch.empty(N, D)
        total, squares = torch.zeros(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
        first = _float32(raw[:1])[0]
        constant = torch.ones(D, dtype=torch.bool)
        for start in range(0, N, _ROWS_PER_BLOCK):
            block = _float32(raw[start : start + _ROWS_PER_BLOCK])
            sums = block.sum(dim=0)
            # One bad value makes its column's sum NaN or infinite: no need to look at every value.
            if not bool(sums.isfinite().all()):
                row, column = (~block.isfinite()).nonzero()[0].tolist()
                raise DataError(
                    f"Feature {column} of row {start + row} is {block[row, column].item()}, expected a finite number. "
                    "Derive the table again."
                )
            values[start : start + _ROWS_PER_BLOCK] = block
            total += sums
            constant &= (block == first).all(dim=0)
        # Rounded to what is subtracted and divided by, so that folding them into the weights is exact.
        # A constant's own value is its mean: what a float32 sum makes of it depends on the processor's order.
        mean = torch.where(constant, first, (total / N).float()).double()
        for start in range(0, N, _ROWS_PER_BLOCK):
            block = values[start : start + _ROWS_PER_BLOCK]
            block -= mean.float()
            squares += block.square().sum(dim=0)
        scale = (squares / N).sqrt()
        # What differs in float32's last digits only is no signal to blow up.
        spread = ~constant & (scale > 1e-6 * mean.abs().clamp(min=1e-12))
        # Nor is the rounding left of a channel's mean that a norm made 0: it hangs on which images share a batch.
        spread &= scale > _LEAST_SPREAD
        scale = torch.where(spread, scale, torch.ones_like(scale)).float().double()
        values /= scale.float()
        values[:, ~spread] = 0.0
        return cls(values, mean, scale, copies)

    @property
    def num_images(self) -> int:
        """Images behind the rows."""
        return len(self.values) // self.copies

    @cached_property
    def spectrum(self) -> tuple[Float64[Tensor, " D"], Float64[Tensor, "D D"]]:
        """Eigenvalues and eigenvectors of the second moments ``values.T @ values / N``."""
        eigenvalues, vectors = torch.linalg.eigh(second_moments(self.values) / len(self.values))
        return eigenvalues, vectors

    def standardise(self, raw: Float16[np.ndarray, "M D"] | Float[np.ndarray, "M D"]) -> Float[Tensor, "M D"]:
        """Apply the same standardisation to other rows."""
        return (_float32(raw) - self.mean.float()) / self.scale.float()


def _float32(raw: Float16[np.ndarray, "n D"] | Float[np.ndarray, "n D"]) -> Float[Tensor, "n D"]:
    # Copied, because columns of a Parquet table are read-only and torch knows no such tensors.
    return torch.from_numpy(raw.copy()).float()


def second_moments(values: Float[Tensor, "N D"]) -> Float64[Tensor, "D D"]:
    """Sum the outer products of the rows, block by block, into float64; what lies below the diagonal is copied."""
    D = values.shape[1]
    total = torch.zeros(D, D, dtype=torch.float64)
    for start in range(0, len(values), 4 * _ROWS_PER_BLOCK):
        block = values[start : start + 4 * _ROWS_PER_BLOCK]
        for first in range(0, D, _COLUMNS_PER_TILE):
            tile = slice(first, first + _COLUMNS_PER_TILE)
            total[tile, first:] += block[:, tile].T @ block[:, first:]
    return total.triu() + total.triu(1).T


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A fitted linear layer on raw features.

    Attributes:
        weight: One row per exit, standardisation included.
        bias: One number per exit, standardisation included.
    """

    weight: Float64[Tensor, "E D"]
    bias: Float64[Tensor, " E"]

    def scores(self, raw: Float16[np.ndarray, "N D"] | Float[np.ndarray, "N D"]) -> Float[Tensor, "N E"]:
        """Give the score of every exit, in float32 as at inference."""
        weight, bias = self.weight.float(), self.bias.float()
        blocks = [
            torch.nn.functional.linear(_float32(block), weight, bias)
            for block in np.array_split(raw, max(1, -(-len(raw) // _ROWS_PER_BLOCK)))
        ]
        return torch.cat(blocks)

    def after(self, first: "LinearHead") -> "LinearHead":
        """The one layer that does what this one does on the scores of another."""
        return LinearHead(self.weight @ first.weight, self.bias + self.weight @ first.bias)


def fold_standardisation(
    weight: Float64[Tensor, "E D"], bias: Float64[Tensor, " E"], features: StandardisedFeatures
) -> LinearHead:
    """Turn weights on standardised features into weights on raw ones with the same scores."""
    raw_weight = weight / features.scale
    return LinearHead(raw_weight, bias - raw_weight @ features.mean)


@dataclass(frozen=True, eq=False)
class SolverState:
    """Where L-BFGS ended; also a warm start for the next fit.

    Attributes:
        weight: On standardised features.
        bias: Not regularised.
        objective: Mean loss plus ``l2 / 2 * |weight|^2``, per fit.
        gradient_norm: Euclidean norm of the objective's gradient in weight and bias, all fits together.
        gradient_scale: Largest component of the preconditioned gradient at zero, which tolerances refer to.
        evaluations: Passes over the features.
    """

    weight: Float64[Tensor, "F E D"]
    bias: Float64[Tensor, "F E"]
    objective: Float64[Tensor, " F"]
    gradient_norm: float
    gradient_scale: float
    evaluations: int


def solve(
    features: StandardisedFeatures,
    targets: Float[Tensor, "N E"],
    loss: LossName,
    l2: float,
    *,
    fold_of_row: Int[Tensor, " N"] | None = None,
    folds: int = 1,
    start: SolverState | None = None,
    tolerance: float = 3e-5,
    max_evaluations: int = 400,
) -> SolverState:
    """Minimise mean loss plus ``l2 / 2 * |weight|^2`` for one fit, or for each fold left out at once.

    Args:
        features: Standardised features.
        targets: From ``ecocli.losses.gate.loss_targets``.
        l2: Regularisation strength, above 0; the bias is free.
        fold_of_row: For a cross-validation, the fold of each row: fit f leaves out the rows of fold f.
        folds: F when ``fold_of_row`` is given.
        start: Begin at this solution instead of at zero.
        tolerance: Stop when no component of the preconditioned gradient is larger than this share of the largest one
            at zero weights. Relative, because the soft targets differ by thousandths and the hard ones by one.
        max_evaluations: Give up after so many passes; the state then says how far it got.
    """
    F, E, D = folds, targets.shape[1], features.values.shape[1]
    eigenvalues, vectors = features.spectrum
    stretch = (_CURVATURE * eigenvalues.clamp(min=0.0) + l2).sqrt()

    def to_weight(coordinates: Float64[Tensor, "F E D"]) -> Float64[Tensor, "F E D"]:
        return (coordinates / stretch) @ vectors.T

    if start is None:
        coordinates, bias = torch.zeros(F, E, D, dtype=torch.float64), torch.zeros(F, E, dtype=torch.float64)
    else:
        coordinates, bias = (start.weight @ vectors) * stretch, start.bias.clone()
    problem = _Problem(features.values, targets.double(), loss, l2, fold_of_row, F)
    last = (torch.zeros(F, dtype=torch.float64), float("nan"))
    evaluations = 0
    scale = start.gradient_scale if start is not None else 0.0

    def closure() -> float:
        nonlocal last, evaluations
        evaluations += 1
        objective, weight_gradient, bias_gradient = problem.evaluate(to_weight(coordinates), bias)
        coordinates.grad = (weight_gradient @ vectors) / stretch
        bias.grad = bias_gradient
        norm = (weight_gradient.square().sum() + bias_gradient.square().sum()).sqrt()
        last = (objective, float(norm))
        return float(objective.sum())

    if scale == 0.0:
        closure()
        assert coordinates.grad is not None
        assert bias.grad is not None
        scale = max(float(coordinates.grad.abs().max()), float(bias.grad.abs().max()))
    optimiser = torch.optim.LBFGS(
        [coordinates, bias],
        max_iter=max_evaluations,
        max_eval=max_evaluations,
        history_size=20,
        tolerance_grad=tolerance * scale,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )
    step: Callable[[Callable[[], float]], object] = optimiser.step
    step(closure)
    closure()  # the line search may have ended elsewhere than at its last trial
    return SolverState(to_weight(coordinates), bias.detach(), last[0], last[1], scale, evaluations)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The objective of F fits on shared features."""

    values: Float[Tensor, "N D"]
    targets: Float64[Tensor, "N E"]
    loss: LossName
    l2: float
    fold_of_row: Int[Tensor, " N"] | None
    folds: int

    @cached_property
    def rows(self) -> Float64[Tensor, " F"]:
        """Number of training rows of each fit."""
        N = len(self.values)
        if self.fold_of_row is None:
            return torch.tensor([float(N)], dtype=torch.float64)
        return (N - self.fold_of_row.bincount(minlength=self.folds)).double()

    def evaluate(
        self, weight: Float64[Tensor, "F E D"], bias: Float64[Tensor, "F E"]
    ) -> tuple[Float64[Tensor, " F"], Float64[Tensor, "F E D"], Float64[Tensor, "F E"]]:
        """Objective of each fit and its gradients, in one pass over the features."""
        F, E, D = weight.shape
        flat_weight, flat_bias = weight.reshape(F * E, D).float(), bias.reshape(F * E).float()
        total = torch.zeros(F, dtype=torch.float64)
        weight_gradient = torch.zeros(F * E, D, dtype=torch.float64)
        bias_gradient = torch.zeros(F * E, dtype=torch.float64)
        for start in range(0, len(self.values), _ROWS_PER_BLOCK):
            rows = slice(start, start + _ROWS_PER_BLOCK)
            block = self.values[rows]
            # The products run in float32, everything per row in float64: rounding of the loss would mislead the line
            # search where targets hardly differ.
            logits = torch.nn.functional.linear(block, flat_weight, flat_bias).view(-1, F, E).double()
            losses, gradient = gate_loss_and_gradient(logits, self.targets[rows, None], self.loss)
            if self.fold_of_row is not None:
                kept = self.fold_of_row[rows, None] != torch.arange(F)
                losses, gradient = losses * kept, gradient * kept[..., None]
            flat = gradient.reshape(-1, F * E)
            total += losses.sum(dim=0)
            weight_gradient += flat.float().T @ block
            bias_gradient += flat.sum(dim=0)
        objective = total / self.rows + self.l2 / 2 * weight.square().sum(dim=(1, 2))
        scaled = weight_gradient.view(F, E, D) / self.rows[:, None, None] + self.l2 * weight
        return objective, scaled, bias_gradient.view(F, E) / self.rows[:, None]
