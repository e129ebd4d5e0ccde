"""What an image contains, predicted from its features: the few numbers through which a gate is best fitted.

Shapes: N images, D features, K classes that occur, E exits.
An image's gain from depth is mostly luck; what it holds of each class is not, and a gate's worth for the data set's PQ
hangs on it. So the features are first regressed on contents (true segments per class, ``tp + fn``, over their
deviation), and the head is fitted to predictions that each image's own fold did not see. The two layers multiply to
one linear layer on the features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ecocli.gates.class_head import L2_GRID, folds_of_rows
from ecocli.gates.ridge import CrossValidatedRidge
from ecocli.gates.solver import LinearHead, StandardisedFeatures, fold_standardisation

_STRENGTHS = L2_GRID[::2]


@dataclass(frozen=True, eq=False)
class ContentsFit:
    """Contents predicted from features.

    Attributes:
        layer: From raw features to contents per class, over their deviation.
        out_of_fold: Contents of the images fitted on, each predicted by a fit that left its fold out.
    """

    layer: LinearHead
    out_of_fold: Float[Tensor, "N K"]
    l2: float


def fit_contents(
    features: StandardisedFeatures, contents: Float64[Tensor, "N _k"], *, folds: int = 5, seed: int = 0
) -> ContentsFit:
    """Regress contents on features.

    Classes of which all images hold the same number say nothing and are left out; where no class differs, the contents
    are one constant, and a gate fitted through them sends every image alike.

    Args:
        features: Standardised features.
        contents: True segments of each class.
        folds: Parts of the cross-validation, no more than there are images.
    """
    deviation = contents.std(dim=0, correction=0)
    differs = deviation > 0
    N, D = features.values.shape
    if not differs.any() or features.num_images < 2:
        layer = LinearHead(torch.zeros(1, D, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
        return ContentsFit(layer, torch.zeros(N, 1), _STRENGTHS[0])
    responses = contents[:, differs] / deviation[differs]
    ridge = CrossValidatedRidge.of(
        features.values,
        responses,
        folds_of_rows(features.num_images, min(folds, features.num_images), seed, features.copies),
    )
    l2 = _STRENGTHS[_lowest(lambda place: float(ridge.held_out_error(_STRENGTHS[place]).mean()))]
    layer = fold_standardisation(*ridge.solve(l2), features)
    return ContentsFit(layer, ridge.held_out_predictions(l2).float(), l2)


def _lowest(error: Callable[[int], float]) -> int:
    """Climb down from the middle of the strengths to a place whose neighbours have no lower error."""
    place = len(_STRENGTHS) // 2
    known = {place: error(place)}
    while True:
        for beside in (place - 1, place + 1):
            if 0 <= beside < len(_STRENGTHS) and beside not in known:
                known[beside] = error(beside)
        best = min(known, key=known.__getitem__)
        if best == place:
            return place
        place = best
