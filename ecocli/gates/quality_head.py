"""The gate's quality head: the panoptic quality at every exit by ridge regression, so that beta can change afterwards.

Shapes: N images, D features, E exits, T responses, F folds.
Not in the paper. The exit is the argmax of predicted quality less beta times cost, for any beta. Only differences
between exits decide, and they are far smaller than what all exits of an image share; so the shared level and the
differences get a regularisation strength each, chosen by cross-validation. Everything is in closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ecocli.gates.class_head import L2_GRID, HeadFit, folds_of_rows
from ecocli.gates.solver import StandardisedFeatures, fold_standardisation, second_moments


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
