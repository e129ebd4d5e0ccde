"""The gate's quality head: the panoptic quality at every exit by ridge regression, so that beta can change afterwards.

Shapes: N images, D features, E exits, T responses, F folds.
Not in the paper. The exit is the argmax of predicted quality less beta times cost, for any beta. Only differences
between exits decide, and they are far smaller than what all exits of an image share; so the shared level and the
differences get a regularisation strength each, chosen by cross-validation. Everything is in closed form.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ecocli.gates.class_head import L2_GRID, HeadFit, Worth, folds_of_rows
from ecocli.gates.ridge import CrossValidatedRidge
from ecocli.gates.solver import StandardisedFeatures, fold_standardisation


def fit_quality_head(
    features: StandardisedFeatures,
    quality: Float[Tensor, "N E"],
    *,
    l2: float | None = None,
    folds: int = 5,
    seed: int = 0,
    worth: Worth | None = None,
) -> HeadFit:
    """Fit a linear layer that predicts the quality at every exit, by ridge regression in closed form.

    Args:
        features: Standardised features.
        quality: Panoptic quality in 0..1, defined at every exit.
        l2: Strength for the differences between exits; chosen by cross-validation when not given.
        folds: Parts of the cross-validation, no more than there are images.
        worth: Chooses the strength by what the held-out scores are worth instead of by their squared error.
    """
    quality = quality.double()
    level = quality.mean(dim=1, keepdim=True)
    responses = torch.cat([level, quality - level], dim=1)
    fold_of_row = folds_of_rows(features.num_images, min(folds, features.num_images), seed, features.copies)
    ridge = CrossValidatedRidge.of(features.values, responses, fold_of_row)
    path: tuple[tuple[float, float], ...] = ()
    level_l2 = difference_l2 = L2_GRID[0]
    if len(ridge.parts) > 1:
        errors = ridge.held_out_errors(L2_GRID)
        level_l2 = L2_GRID[int(errors[:, 0].argmin())]
        if worth is None:
            losses = errors[:, 1:].mean(dim=1).tolist()
        else:
            losses = [-worth(_scores(ridge.held_out_predictions(strength))) for strength in L2_GRID]
        path = tuple(zip(L2_GRID, losses, strict=True))
        difference_l2 = min(path, key=lambda step: step[1])[0]
    difference_l2 = difference_l2 if l2 is None else l2
    (level_weight, level_bias), (weight, bias) = ridge.solve(level_l2), ridge.solve(difference_l2)
    head = fold_standardisation(weight[1:] + level_weight[:1], bias[1:] + level_bias[:1], features)
    out_of_fold = _scores(ridge.held_out_predictions(difference_l2)) if len(ridge.parts) > 1 else None
    return HeadFit(head, difference_l2, path, 0.0, 1, None, out_of_fold)


def _scores(predicted: Float64[Tensor, "N T"]) -> Float[Tensor, "N E"]:
    """Quality at every exit from the predicted level (column 0) and differences."""
    return (predicted[:, 1:] + predicted[:, :1]).float()
