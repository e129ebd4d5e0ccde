"""The gate's solver and heads: optimum, folding, cross-validation and degenerate tables.

Expected optima come from an independent solver: scipy's L-BFGS-B on the same objective, written out anew below in
float64 with autograd for the gradient, from another starting point.
"""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ecocli.config.fit_gate import LossName
from ecocli.errors import DataError
from ecocli.gates.class_head import L2_GRID, fit_class_head, folds_of_rows
from ecocli.gates.quality_head import fit_quality_head
from ecocli.gates.solver import StandardisedFeatures, fold_standardisation, solve
from ecocli.losses.gate import loss_targets


def correlated(seed: int, rows: int, features: int, exits: int = 4) -> tuple[np.ndarray, torch.Tensor]:
    """Draw strongly correlated raw features of very different scales, and utilities that depend on them."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((rows, max(features // 3, 2)))
    mixing = rng.standard_normal((latent.shape[1], features))
    raw = np.maximum(latent @ mixing + 0.05 * rng.standard_normal((rows, features)), -0.5)
    raw = raw * np.geomspace(0.01, 30.0, features) + np.linspace(-3.0, 8.0, features)
    utilities = 0.5 + 0.1 * latent @ rng.standard_normal((latent.shape[1], exits)) + 0.1 * rng.random((rows, exits))
    return raw.astype(np.float32), torch.from_numpy(utilities)


def plain_objective(
    parameters: np.ndarray, raw: np.ndarray, targets: torch.Tensor, loss: LossName, l2: float
) -> tuple[float, np.ndarray]:
    """Mean loss plus l2 / 2 |W|^2 on standardised features, and its gradient by autograd, in float64."""
    z = torch.from_numpy((raw - raw.mean(axis=0, dtype=np.float64)) / raw.std(axis=0, dtype=np.float64))
    flat = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
    matrix = flat.view(targets.shape[1], -1)
    logits = z @ matrix[:, 1:].T + matrix[:, 0]
    if loss == "soft-mse":
        mean_loss = ((logits.softmax(dim=1) - targets) ** 2).mean(dim=1).mean()
    else:
        mean_loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    objective = mean_loss + l2 / 2 * (matrix[:, 1:] ** 2).sum()
    (gradient,) = torch.autograd.grad(objective, flat)
    return float(objective.detach()), gradient.numpy()


@pytest.mark.parametrize("loss", get_args(LossName))
def test_solve__correlated_features__reaches_scipys_optimum(loss: LossName) -> None:
    raw, utilities = correlated(0, rows=400, features=30)
    targets, l2 = loss_targets(utilities, loss), 1e-3
    state = solve(StandardisedFeatures.from_raw(raw), targets, loss, l2)
    start = 0.01 * np.random.default_rng(1).standard_normal(4 * 31)
    peer = minimize(
        plain_objective,
        start,
        args=(raw, targets, loss, l2),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-10},
    )
    ours = torch.cat([state.bias[0][:, None], state.weight[0]], dim=1).numpy().ravel()
    value, gradient = plain_objective(ours, raw, targets, loss, l2)
    # The reported objective and gradient are the plain ones, the optimum is scipy's or (float32 products) next to it.
    assert float(state.objective[0]) == pytest.approx(value, rel=1e-5)
    assert value == pytest.approx(peer.fun, rel=1e-5, abs=1e-9)
    scale = np.linalg.norm(plain_objective(np.zeros_like(ours), raw, targets, loss, l2)[1])
    assert np.linalg.norm(gradient) < 1e-3 * scale
    assert state.gradient_norm < 1e-3 * scale
    assert state.evaluations < 100


def test_solve__all_folds_at_once__each_equals_its_own_fit() -> None:
    raw, utilities = correlated(2, rows=150, features=12)
    features, targets = StandardisedFeatures.from_raw(raw), loss_targets(utilities, "hard-ce")
    fold_of_row = folds_of_rows(150, 3, seed=0)
    together = solve(features, targets, "hard-ce", 1e-2, fold_of_row=fold_of_row, folds=3)
    for fold in range(3):
        kept = fold_of_row != fold
        alone = StandardisedFeatures(features.values[kept], features.mean, features.scale)
        single = solve(alone, targets[kept], "hard-ce", 1e-2)
        torch.testing.assert_close(together.objective[fold], single.objective[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(together.weight[fold], single.weight[0], rtol=0, atol=2e-3)


def test_solve__warm_start__same_optimum_in_fewer_evaluations() -> None:
    raw, utilities = correlated(3, rows=500, features=40)
    features, targets = StandardisedFeatures.from_raw(raw), loss_targets(utilities, "hard-ce")
    cold = solve(features, targets, "hard-ce", 1e-2)
    warm = solve(features, targets, "hard-ce", 1e-2, start=cold)
    torch.testing.assert_close(warm.objective, cold.objective, rtol=1e-6, atol=0)
    assert warm.evaluations <= 3 < cold.evaluations


def test_fold_standardisation__raw_features__same_scores() -> None:
    raw, _ = correlated(4, rows=50, features=9)
    features = StandardisedFeatures.from_raw(raw)
    weight, bias = torch.randn(3, 9, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    head = fold_standardisation(weight, bias, features)
    expected = features.values.double() @ weight.T + bias
    torch.testing.assert_close(head.scores(raw).double(), expected, rtol=1e-4, atol=1e-3)


def test_from_raw__constant_feature__is_zero_and_gets_no_weight() -> None:
    raw, utilities = correlated(5, rows=60, features=5)
    raw[:, 2] = 0.1  # no float32 number: the mean of many is not quite it
    features = StandardisedFeatures.from_raw(raw)
    assert features.values[:, 2].abs().max() == 0
    fit = fit_class_head(features, loss_targets(utilities, "hard-ce"), "hard-ce", l2=1e-2)
    assert fit.head.weight[:, 2].abs().max() < 1e-12  # its row of the preconditioner is LAPACK's rounding
    assert fit.head.weight.isfinite().all()


def test_from_raw__rounding_beside_signal__is_zero_and_gets_no_weight() -> None:
    # What float32 leaves of the mean of a channel that a norm centres, as float16 holds it: a few times 6e-8. Blown up
    # to unit deviation it decided exits by which images shared a batch.
    raw, utilities = correlated(5, rows=60, features=5)
    raw = raw.astype(np.float16)
    raw[:, 3] = np.random.default_rng(0).integers(-5, 6, 60) * 6e-8
    raw[:, 1] *= np.float16(1e-2)  # small, but signal
    features = StandardisedFeatures.from_raw(raw)
    assert features.values[:, 3].abs().max() == 0
    assert features.values[:, 1].std(correction=0) == pytest.approx(1.0, abs=1e-3)
    for fit in (
        fit_class_head(features, loss_targets(utilities, "hard-ce"), "hard-ce", l2=1e-2),
        fit_quality_head(features, utilities, folds=3),
    ):
        assert fit.head.weight[:, 3].abs().max() < 1e-9


@pytest.mark.parametrize("value", [0.1, -7.3e4, 3e-30, 0.0])
def test_from_raw__constant_over_many_blocks__is_zero_whatever_the_order_of_sums(value: float) -> None:
    # 10,000 float32 copies of 0.1 sum to 1000 give or take 2e-2, by the order that the processor chooses.
    features = StandardisedFeatures.from_raw(np.full((10_000, 3), value, np.float32))
    assert features.values.abs().max() == 0
    assert features.scale.tolist() == [1.0] * 3


def test_from_raw__float16_and_float32__agree() -> None:
    raw = correlated(6, rows=5000, features=3)[0].astype(np.float16)
    torch.testing.assert_close(
        StandardisedFeatures.from_raw(raw).values, StandardisedFeatures.from_raw(raw.astype(np.float32)).values
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_from_raw__not_finite__names_row_and_column(bad: float) -> None:
    raw, _ = correlated(7, rows=5000, features=4)
    raw[4500, 1] = bad
    with pytest.raises(DataError, match=rf"Feature 1 of row 4500 is {bad}, expected a finite number"):
        StandardisedFeatures.from_raw(raw)


def test_from_raw__no_rows__is_refused() -> None:
    with pytest.raises(DataError, match="no image to learn from"):
        StandardisedFeatures.from_raw(np.zeros((0, 4), np.float32))


# Regularisation


def test_fit_class_head__noise_features__chooses_strong_regularisation() -> None:
    rng = np.random.default_rng(8)
    features = StandardisedFeatures.from_raw(rng.standard_normal((200, 60)))
    targets = loss_targets(torch.from_numpy(rng.random((200, 3))), "hard-ce")
    fit = fit_class_head(features, targets, "hard-ce", folds=4)
    assert fit.l2 >= 1.0
    assert [strength for strength, _ in fit.path] == sorted((s for s, _ in fit.path), reverse=True)


def test_fit_class_head__clear_signal__chooses_weak_regularisation_and_learns_it() -> None:
    rng = np.random.default_rng(9)
    raw = rng.standard_normal((600, 20))
    utilities = torch.from_numpy(raw[:, :3])
    fit = fit_class_head(StandardisedFeatures.from_raw(raw), loss_targets(utilities, "hard-ce"), "hard-ce", folds=4)
    assert fit.l2 <= 1e-3
    fresh = rng.standard_normal((600, 20))
    hits = fit.head.scores(fresh).argmax(dim=1) == torch.from_numpy(fresh[:, :3]).argmax(dim=1)
    assert hits.double().mean() > 0.9


def test_fit_class_head__path__holds_the_held_out_loss_of_single_fits() -> None:
    raw, utilities = correlated(10, rows=90, features=6)
    features, targets = StandardisedFeatures.from_raw(raw), loss_targets(utilities, "hard-ce")
    fit = fit_class_head(features, targets, "hard-ce", folds=3, seed=5)
    fold_of_row = folds_of_rows(90, 3, seed=5)
    strength, held_out = fit.path[2]
    losses = torch.zeros(90, dtype=torch.float64)
    for fold in range(3):
        kept, left = fold_of_row != fold, fold_of_row == fold
        state = solve(
            StandardisedFeatures(features.values[kept], features.mean, features.scale),
            targets[kept],
            "hard-ce",
            strength,
        )
        logits = features.values[left].double() @ state.weight[0].T + state.bias[0]
        losses[left] = -(targets[left] * logits.log_softmax(dim=1)).sum(dim=1)
    assert held_out == pytest.approx(float(losses.mean()), rel=2e-3)
    assert fit.l2 == min(fit.path, key=lambda step: step[1])[0]


def test_fit_class_head__same_input_twice__same_bits() -> None:
    raw, utilities = correlated(11, rows=300, features=10)
    targets = loss_targets(utilities, "hard-ce")
    first, second = (fit_class_head(StandardisedFeatures.from_raw(raw), targets, "hard-ce") for _ in range(2))
    assert torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(first.head.bias, second.head.bias)


def test_folds_of_rows__ten_rows_in_three__sizes_differ_by_one_at_most() -> None:
    assert sorted(folds_of_rows(10, 3, seed=1).bincount().tolist()) == [3, 3, 4]
    assert folds_of_rows(10, 3, seed=1).tolist() != folds_of_rows(10, 3, seed=2).tolist()


def test_folds_of_rows__neighbours__share_a_fold_but_where_runs_meet() -> None:
    # Three runs on a ring of a hundred images meet in three places, one of which may be where the table begins.
    changes = (folds_of_rows(100, 3, seed=4).diff() != 0).sum().item()
    assert changes in (2, 3)


# Degenerate tables


def test_fit_class_head__one_target_only__sends_every_image_there() -> None:
    raw, _ = correlated(12, rows=40, features=5)
    targets = torch.zeros(40, 3)
    targets[:, 1] = 1.0
    fit = fit_class_head(StandardisedFeatures.from_raw(raw), targets, "hard-ce")
    assert fit.head.weight.abs().max() == 0
    assert set(fit.head.scores(raw * 100).argmax(dim=1).tolist()) == {1}


def test_fit_class_head__exit_that_is_no_target__is_never_taken() -> None:
    raw, utilities = correlated(13, rows=120, features=5, exits=3)
    utilities[:, 1] = -1.0
    targets = loss_targets(utilities, "hard-ce")
    fit = fit_class_head(StandardisedFeatures.from_raw(raw), targets, "hard-ce")
    assert set(fit.head.scores(raw * 3).argmax(dim=1).tolist()) == {0, 2}
    assert fit.head.bias.isfinite().all()


def test_fit_class_head__fewer_rows_than_features__is_finite_and_fits() -> None:
    raw, utilities = correlated(14, rows=12, features=50)
    fit = fit_class_head(StandardisedFeatures.from_raw(raw), loss_targets(utilities, "hard-ce"), "hard-ce")
    assert fit.head.weight.isfinite().all()
    assert fit.l2 in L2_GRID


def test_fit_class_head__fewer_rows_than_folds__leaves_one_out() -> None:
    raw, utilities = correlated(15, rows=3, features=4)
    utilities[0, 0], utilities[1, 1] = 2.0, 2.0
    fit = fit_class_head(StandardisedFeatures.from_raw(raw), loss_targets(utilities, "hard-ce"), "hard-ce", folds=5)
    assert fit.head.weight.isfinite().all()
    assert len(fit.path) >= 2


@pytest.mark.parametrize("loss", ["soft-ce", "u-ce"])
def test_fit_class_head__single_row__strongest_regularisation_without_folds(loss: LossName) -> None:
    raw, utilities = correlated(16, rows=1, features=4)
    fit = fit_class_head(StandardisedFeatures.from_raw(raw), loss_targets(utilities, loss), loss)
    assert (fit.l2, fit.path) == (L2_GRID[0], ())
    assert int(fit.head.scores(raw).argmax()) == int(utilities.argmax())


def test_fit_class_head__no_positive_utility__ties_and_takes_the_shallowest() -> None:
    raw, _ = correlated(17, rows=30, features=4)
    fit = fit_class_head(StandardisedFeatures.from_raw(raw), torch.zeros(30, 3), "u-ce", l2=0.1)
    assert set(fit.head.scores(raw).argmax(dim=1).tolist()) == {0}


# Quality head


def test_fit_quality_head__path_and_weights__equal_plain_ridge_regression() -> None:
    raw, quality = correlated(18, rows=80, features=7)
    features = StandardisedFeatures.from_raw(raw)
    fit = fit_quality_head(features, quality, folds=4, seed=3)
    z = features.values.double().numpy()
    level = quality.numpy().mean(axis=1, keepdims=True)
    differences = quality.numpy() - level

    def ridge(x: np.ndarray, y: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
        centre, offset = x.mean(axis=0), y.mean(axis=0)
        stacked = np.vstack([x - centre, np.sqrt(l2 * len(x)) * np.eye(x.shape[1])])
        weight = np.linalg.lstsq(stacked, np.vstack([y - offset, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0]
        return weight, offset - centre @ weight

    fold_of_row = folds_of_rows(80, 4, seed=3).numpy()

    def error(y: np.ndarray, l2: float) -> float:
        wrong = np.zeros_like(y)
        for fold in range(4):
            left = fold_of_row == fold
            weight, bias = ridge(z[~left], y[~left], l2)
            wrong[left] = z[left] @ weight + bias - y[left]
        return float((wrong**2).mean())

    for strength, held_out in fit.path[::4]:
        assert held_out == pytest.approx(error(differences, strength), rel=1e-4)
    assert fit.l2 == min(L2_GRID, key=lambda l2: error(differences, l2))
    best_level = min(L2_GRID, key=lambda l2: error(level, l2))
    parts = [ridge(z, differences, fit.l2), ridge(z, level, best_level)]
    expected = sum(z @ weight + bias for weight, bias in parts)
    np.testing.assert_allclose(fit.head.scores(raw).numpy(), expected, atol=2e-4)


def test_fit_quality_head__single_row__predicts_its_quality() -> None:
    raw, quality = correlated(19, rows=1, features=4)
    fit = fit_quality_head(StandardisedFeatures.from_raw(raw), quality)
    np.testing.assert_allclose(fit.head.scores(raw).numpy(), quality.numpy(), atol=1e-6)


def test_fit_class_head__warm_start__same_gate_with_fewer_strengths_tried() -> None:
    raw, utilities = correlated(20, rows=300, features=15)
    features = StandardisedFeatures.from_raw(raw)
    near = utilities + 0.01 * torch.arange(4.0)
    first = fit_class_head(features, loss_targets(utilities, "hard-ce"), "hard-ce", folds=3)
    cold = fit_class_head(features, loss_targets(near, "hard-ce"), "hard-ce", folds=3)
    warm = fit_class_head(features, loss_targets(near, "hard-ce"), "hard-ce", folds=3, warm=first.warm)
    assert warm.l2 == cold.l2
    assert len(warm.path) < len(cold.path)
    torch.testing.assert_close(warm.head.scores(raw), cold.head.scores(raw), rtol=0, atol=2e-2)


def test_fit_class_head__warm_start_of_other_exits__is_left_aside() -> None:
    raw, utilities = correlated(21, rows=100, features=6)
    features = StandardisedFeatures.from_raw(raw)
    other = fit_class_head(features, loss_targets(utilities[:, :2], "hard-ce"), "hard-ce", folds=3)
    targets = loss_targets(utilities, "hard-ce")
    warm = fit_class_head(features, targets, "hard-ce", folds=3, warm=other.warm)
    assert torch.equal(warm.head.weight, fit_class_head(features, targets, "hard-ce", folds=3).head.weight)
