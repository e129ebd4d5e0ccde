"""Gates fitted through what an image contains, and the blend that takes their place where they do not pay."""

import numpy as np
import pytest
import torch
from helpers_counts import dense_table
from helpers_gate import random_table

from ecocli.gates.contents import fit_contents
from ecocli.gates.fitter import GateFitter
from ecocli.gates.ridge import CrossValidatedRidge
from ecocli.gates.rows import SplitData, TrainingRows
from ecocli.gates.solver import StandardisedFeatures

DEPTHS = (2, 4, 6)


def split_of(seed: int, images: int, *, told: bool) -> SplitData:
    """Images with up to 6 things of class 0, of which exits find 0.5, 0.8 and 0.9, or each the same of class 1.

    Depth gains on class 0 alone. ``told``: whether the features say how much of class 0 there is.
    """
    rng = np.random.default_rng(seed)
    number = rng.integers(0, 7, images)
    tp, fn = (np.zeros((images, 3, 2), np.int64) for _ in range(2))
    for e, chance in enumerate((0.5, 0.8, 0.9)):
        tp[:, e, 0] = rng.binomial(number, chance)
    fn[:, :, 0] = number[:, None] - tp[:, :, 0]
    tp[:, :, 1] = 3
    counts = dense_table(0.8 * tp, tp, np.zeros_like(tp), fn)
    features = rng.standard_normal((images, 5)).astype(np.float32)
    if told:
        features[:, 2] += number
    costs = np.tile(np.array(DEPTHS, float), (images, 1))
    quality = np.full((images, 3), 0.5)
    return SplitData(quality, counts, features, costs, costs, costs, "dataset-pq")


def fitter_of(split: SplitData, **settings: object) -> GateFitter:
    rows = TrainingRows.of(split, "contents", folds=4)
    values = {"loss": "soft-ce", "l2": None, "folds": 4, "seed": 0, "select": "lead", "replicates": 100, **settings}
    return GateFitter(rows, DEPTHS, **values)  # type: ignore[arg-type]


def test_cross_validated_ridge__errors_from_sums__equal_those_of_the_predictions() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.standard_normal((60, 7)).astype(np.float32))
    responses = torch.from_numpy(rng.standard_normal((60, 2))) + 3.0
    fold = torch.arange(60) % 5
    ridge = CrossValidatedRidge.of(values, responses, fold)
    errors = ridge.held_out_errors((1.0, 1e-3))
    for place, l2 in enumerate((1.0, 1e-3)):
        predicted = ridge.held_out_predictions(l2)
        torch.testing.assert_close(errors[place], (predicted - responses).square().mean(dim=0), rtol=1e-5, atol=1e-7)
        # One fold by numpy's least squares on centred data with sqrt(n l2) rows appended.
        x, y = values[fold != 2].double().numpy(), responses[fold != 2].numpy()
        n = len(x)
        design = np.vstack([x - x.mean(0), np.sqrt(n * l2) * np.eye(7)])
        weight = np.linalg.lstsq(design, np.vstack([y - y.mean(0), np.zeros((7, 2))]), rcond=None)[0]
        plain = (values[fold == 2].double().numpy() - x.mean(0)) @ weight + y.mean(0)
        np.testing.assert_allclose(predicted[fold == 2].numpy(), plain, atol=1e-5)


def test_fit_contents__held_out_contents__are_predicted_without_their_own_fold() -> None:
    split = split_of(1, 300, told=True)
    features = StandardisedFeatures.from_raw(split.features)
    fit = fit_contents(features, torch.from_numpy(split.contents), folds=5)
    # Class 1 is the same everywhere and drops out. Noise of deviation 1 on 0..6: R squared 4 / 5 is the most there is.
    assert fit.out_of_fold.shape == (300, 1)
    number = split.contents[:, 0]
    assert 0.7 < np.corrcoef(fit.out_of_fold[:, 0].numpy(), number)[0, 1] ** 2 < 0.85
    assert fit.layer.weight.shape == (1, 5)


@pytest.mark.parametrize("contents", [np.zeros((20, 3)), np.ones((20, 1))])
def test_fit_contents__no_class_differs__constant(contents: np.ndarray) -> None:
    raw = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    fit = fit_contents(StandardisedFeatures.from_raw(raw), torch.from_numpy(contents), folds=5)
    assert fit.out_of_fold.abs().max() == 0
    assert fit.layer.scores(raw).abs().max() == 0


def test_fit__through_contents__one_layer_chooses_as_the_two() -> None:
    fitter = fitter_of(split_of(1, 300, told=True))
    other = split_of(2, 50, told=True).features
    contents = fitter.rows.contents
    assert contents is not None
    gate = fitter.fit("quality", 3, 0.0)
    assert gate.fit.head.weight.shape == (3, 5)
    # Rank one: all that a head sees is the one class that differs.
    assert torch.linalg.matrix_rank(gate.fit.head.weight - gate.fit.head.weight.mean(dim=0), tol=1e-9) <= 1
    shown = contents.layer.scores(other)[:, 0]
    gain = gate.fit.head.scores(other)[:, 2] - gate.fit.head.scores(other)[:, 0]
    assert float(torch.corrcoef(torch.stack([shown, gain]))[0, 1]) > 0.999


@pytest.mark.parametrize("head", ["quality", "class"])
def test_out_of_fold__features_that_tell__pays_and_features_that_do_not__does_not(head: str) -> None:
    paying, idle = (fitter_of(split_of(3, 600, told=told)) for told in (True, False))
    assert head in ("quality", "class")
    seen = [f.out_of_fold(f.fit(head, 3, 0.02), 0.0) for f in (paying, idle)]  # type: ignore[arg-type]
    assert seen[0] is not None
    assert seen[0].pays
    assert seen[0].interval[0] > 0
    assert seen[1] is None or seen[1].interval[0] < 0.001


@pytest.mark.parametrize("share", [0.15, 0.4, 0.8])
def test_blind__any_budget__is_met_and_leads_by_nothing(share: float) -> None:
    # The blend of equal cost is what a blind gate is, up to chance: a random share of 4,000 images.
    split = split_of(4, 4000, told=True)
    fitter = fitter_of(split, blind=True)
    budget = 2.0 + share * 4.0
    low, high = 1e-9, 10.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        chosen = fitter.fit("quality", 3, middle).choose(split.features)
        low, high = (middle, high) if np.array(DEPTHS)[chosen].mean() > budget else (low, middle)
    chosen = fitter.fit("quality", 3, high).choose(split.features)
    assert np.array(DEPTHS)[chosen].mean() == pytest.approx(budget, rel=0.01)
    arena = split.arena(DEPTHS, 100, 0)
    low_end, high_end = np.quantile(arena.lead_replicates(chosen), [0.005, 0.995])
    assert low_end <= 0 <= high_end


def test_contents__matched_and_missed_at_any_exit__are_the_true_segments() -> None:
    table = random_table(5, 30, 3, 4)
    dense = np.zeros((30, 3, 4))
    dense[table.image, table.exit_index, table.class_index] = table.tp + table.fn
    costs = np.ones((30, 3))
    split = SplitData(costs, table, np.zeros((30, 1), np.float32), costs, costs, costs)
    np.testing.assert_array_equal(split.contents, dense.max(axis=1))
