"""Ridge regression of many responses at once, in closed form, with what each fold of a cross-validation left out.

Shapes: N rows, D features, T responses, L strengths. One pass over the features gives the sums of every fold; fits of
any strength, their held-out errors and their held-out predictions follow from those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ecocli.gates.solver import second_moments


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows that a ridge regression with a free bias needs."""

    rows: int
    features: Float64[Tensor, " D"]
    responses: Float64[Tensor, " T"]
    feature_products: Float64[Tensor, "D D"]
    response_products: Float64[Tensor, "T D"]
    response_squares: Float64[Tensor, " T"]

    @classmethod
    def of(cls, values: Float[Tensor, "n D"], responses: Float64[Tensor, "n T"]) -> "Moments":
        """Sum over rows."""
        return cls(
            len(values),
            values.sum(dim=0, dtype=torch.float64),
            responses.sum(dim=0),
            second_moments(values),
            (responses.float().T @ values).double(),
            responses.square().sum(dim=0),
        )

    def plus(self, other: "Moments", sign: float = 1.0) -> "Moments":
        """Add rows, or with a sign of -1 leave rows out."""
        return Moments(
            self.rows + int(sign) * other.rows,
            self.features + sign * other.features,
            self.responses + sign * other.responses,
            self.feature_products + sign * other.feature_products,
            self.response_products + sign * other.response_products,
            self.response_squares + sign * other.response_squares,
        )

    def solve(self, l2: float) -> tuple[Float64[Tensor, "T D"], Float64[Tensor, " T"]]:
        """Minimise mean squared error plus ``l2 |weight|^2``."""
        mean, response_mean = self.features / self.rows, self.responses / self.rows
        moments = self.feature_products / self.rows - torch.outer(mean, mean)
        moments.diagonal().add_(l2)
        cross = self.response_products / self.rows - torch.outer(response_mean, mean)
        weight = torch.cholesky_solve(cross.T, torch.linalg.cholesky(moments)).T
        return weight, response_mean - weight @ mean

    def squared_errors(self, weight: Float64[Tensor, "T D"], bias: Float64[Tensor, " T"]) -> Float64[Tensor, " T"]:
        """Sum the squared errors of a fit over these rows, from the sums alone."""
        predicted_squares = ((weight @ self.feature_products) * weight).sum(dim=1)
        predicted = weight @ self.features
        crossed = (weight * self.response_products).sum(dim=1) + bias * self.responses
        squares = predicted_squares + 2.0 * bias * predicted + self.rows * bias.square()
        return (squares - 2.0 * crossed + self.response_squares).clamp(min=0.0)


@dataclass(frozen=True, eq=False)
class CrossValidatedRidge:
    """A regression on all rows, and one on all rows but each fold's."""

    values: Float[Tensor, "N D"]
    fold_of_row: Int[Tensor, " N"]
    parts: Sequence[Moments]
    _known: dict[float, list[tuple[Float64[Tensor, "T D"], Float64[Tensor, " T"]]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, values: Float[Tensor, "N D"], responses: Float64[Tensor, "N T"], fold_of_row: Int[Tensor, " N"]
    ) -> "CrossValidatedRidge":
        """Sum the rows of every fold."""
        parts = []
        for fold in range(int(fold_of_row.max()) + 1):
            rows = fold_of_row == fold
            parts.append(Moments.of(values[rows], responses[rows]))
        return cls(values, fold_of_row, parts)

    @cached_property
    def everything(self) -> Moments:
        """Sums over all rows."""
        total = self.parts[0]
        for part in self.parts[1:]:
            total = total.plus(part)
        return total

    def solve(self, l2: float) -> tuple[Float64[Tensor, "T D"], Float64[Tensor, " T"]]:
        """Fit all rows."""
        return self.everything.solve(l2)

    def held_out_errors(self, strengths: Sequence[float]) -> Float64[Tensor, "L T"]:
        """Mean squared error of each response on the rows that a fit left out, at every strength."""
        return torch.stack([self.held_out_error(l2) for l2 in strengths])

    def held_out_error(self, l2: float) -> Float64[Tensor, " T"]:
        """Mean squared error of each response on the rows that a fit of one strength left out."""
        errors = torch.zeros(len(self.everything.responses), dtype=torch.float64)
        for part, (weight, bias) in zip(self.parts, self._fits(l2), strict=True):
            errors += part.squared_errors(weight, bias)
        return errors / self.everything.rows

    def held_out_predictions(self, l2: float) -> Float64[Tensor, "N T"]:
        """Predict every row with the fit that left it out."""
        predicted = torch.empty(len(self.values), len(self.everything.responses), dtype=torch.float64)
        for fold, (weight, bias) in enumerate(self._fits(l2)):
            rows = (self.fold_of_row == fold).nonzero()[:, 0]
            predicted[rows] = torch.nn.functional.linear(self.values[rows], weight.float()).double() + bias
        return predicted

    def _fits(self, l2: float) -> list[tuple[Float64[Tensor, "T D"], Float64[Tensor, " T"]]]:
        """The fits that leave out each fold, kept for the next question about the same strength."""
        if l2 not in self._known:
            self._known[l2] = [self.everything.plus(part, -1.0).solve(l2) for part in self.parts]
        return self._known[l2]
