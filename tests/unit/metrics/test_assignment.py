"""Dataset PQ of assignments, mixtures and oracles, against hand-worked numbers and a plain reference."""

import itertools

import numpy as np
import pytest
from helpers_counts import dense_table
from helpers_gate import plain_assignment_pq, plain_pq, random_counts, random_table
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocli.metrics.assignment import (
    CountTable,
    best_fixed_mixture,
    bootstrap_totals,
    choice_within,
    mixture_of,
    oracle_assignment,
    pq_of_totals,
    random_assignment_pq,
)
from ecocli.metrics.bootstrap import (
    compare,
    one_hot,
    percentile_interval,
)
from ecocli.metrics.panoptic_quality import ImageCounts, panoptic_quality


def hand_counts() -> tuple[np.ndarray, ...]:
    """Two images, two exits, two classes.

    Image 0: exit 0 misses the one object of class 0; exit 1 finds it with IoU 0.8.
    Image 1: class 0 found with IoU 0.6 at both exits; class 1 has one false positive at exit 1 only.
    """
    iou_sum, tp, fp, fn = np.zeros((2, 2, 2)), *(np.zeros((2, 2, 2), np.int64) for _ in range(3))
    fn[0, 0, 0] = 1
    iou_sum[0, 1, 0], tp[0, 1, 0] = 0.8, 1
    iou_sum[1, :, 0], tp[1, :, 0] = 0.6, 1
    fp[1, 1, 1] = 1
    return iou_sum, tp, fp, fn


def test_assignment_pq__two_images__hand_worked() -> None:
    table = dense_table(*hand_counts())
    # Exit 0 everywhere: class 0 has IoU 0.6, TP 1, FN 1: 0.6 / 1.5. Class 1 does not occur.
    assert table.assignment_quality(np.array([0, 0])) == pytest.approx(0.4, abs=1e-15)
    # Image 0 at exit 1: 1.4 / 2.
    assert table.assignment_quality(np.array([1, 0])) == pytest.approx(0.7, abs=1e-15)
    # Exit 1 everywhere: the false positive makes class 1 occur with PQ 0: (0.7 + 0) / 2.
    assert table.assignment_quality(np.array([1, 1])) == pytest.approx(0.35, abs=1e-15)


def test_mixture_pq__half_and_half__hand_worked() -> None:
    table = dense_table(*hand_counts())
    # Expected counts of class 0: IoU 0.6 + 0.4, TP 1 + 0.5, FN 0.5, so 1.0 / 1.75; class 1: FP 0.5, PQ 0.
    assert table.mixture_quality(np.array([0.5, 0.5])) == pytest.approx((1.0 / 1.75) / 2, abs=1e-15)


def test_assignment_pq__no_class_occurs__is_nan() -> None:
    nothing = np.zeros((3, 2, 4), np.int64)
    table = dense_table(nothing.astype(float), nothing, nothing, nothing)
    assert np.isnan(table.assignment_quality(np.zeros(3, np.int64)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), images=st.integers(1, 12), exits=st.integers(1, 5), classes=st.integers(1, 6))
def test_assignment_pq__random_tables__equals_plain_sum(seed: int, images: int, exits: int, classes: int) -> None:
    counts = random_counts(seed, images, exits, classes)
    assignment = np.random.default_rng(seed + 1).integers(0, exits, images)
    found = dense_table(*counts).assignment_quality(assignment)
    assert found == pytest.approx(plain_assignment_pq(counts, assignment), abs=1e-12, nan_ok=True)


def test_assignment_pq__random_table__equals_the_evaluators_panoptic_quality() -> None:
    counts = random_counts(3, 40, 4, 9)
    assignment = np.random.default_rng(0).integers(0, 4, 40)
    total = ImageCounts.zeros(9)
    for n, e in enumerate(assignment):
        total = total + ImageCounts(*(array[n, e] for array in counts))
    peer = panoptic_quality(total).overall.pq
    assert dense_table(*counts).assignment_quality(assignment) == pytest.approx(peer, abs=1e-12)


def test_count_table__class_out_of_range__names_the_span() -> None:
    counts = np.ones((1, 1, 2), np.int64)
    table = dense_table(counts.astype(float), counts, counts, counts)
    with pytest.raises(ValueError, match=r"class index of the count table spans 0\.\.1, but there are 1"):
        CountTable(1, 1, 1, *(getattr(table, name) for name in _ENTRY_FIELDS))


def test_count_table__images_out_of_order__is_refused() -> None:
    table = random_table(0, 4, 2, 2)
    backwards = {name: getattr(table, name)[::-1].copy() for name in _ENTRY_FIELDS}
    with pytest.raises(ValueError, match="grouped by ascending image"):
        CountTable(4, 2, 2, **backwards)


_ENTRY_FIELDS = ("image", "exit_index", "class_index", "iou_sum", "tp", "fp", "fn")


def test_oracle_assignment__ties_and_undefined__take_the_shallower() -> None:
    # By hand: a tie at exits 0 and 2; a maximum at 1; undefined at one exit.
    utilities = np.array([[0.5, 0.4, 0.5], [0.1, 0.3, 0.2], [np.nan, 0.9, 0.1]])
    assert oracle_assignment(utilities).tolist() == [0, 1, 0]


def test_oracle_assignment__sums_that_round_apart__are_a_tie() -> None:
    # 0.1 + 0.2 is 0.30000000000000004: which of two equal sums is larger must not follow from the order of adding.
    assert oracle_assignment(np.array([[0.3, 0.1 + 0.2], [0.3, 0.3 + 1e-9]])).tolist() == [0, 1]


def test_mixture_of__counts_shares() -> None:
    np.testing.assert_array_equal(mixture_of(np.array([0, 2, 2, 2]), 4), [0.25, 0.0, 0.75, 0.0])


def test_random_assignment_pq__same_seed__same_draws_around_the_expected_value() -> None:
    table = random_table(8, 300, 3, 4)
    assignment = np.random.default_rng(0).integers(0, 3, 300)
    draws = random_assignment_pq(table, assignment, 60, seed=1)
    np.testing.assert_array_equal(draws, random_assignment_pq(table, assignment, 60, seed=1))
    expected = table.mixture_quality(mixture_of(assignment, 3))
    # The mean of 60 draws lies within four standard errors, and single draws differ from each other.
    assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(60) + 1e-4
    assert draws.std() > 0


def test_best_fixed_mixture__three_exits__equals_a_fine_search_over_pairs() -> None:
    table = random_table(11, 50, 3, 5)
    costs = np.array([2.0, 3.0, 5.0])
    budget = 3.4
    best = max(
        table.mixture_quality(share * np.eye(3)[i] + (1 - share) * np.eye(3)[j])
        for i, j in itertools.product(range(3), repeat=2)
        for share in np.linspace(0, 1, 2001)
        if share * costs[i] + (1 - share) * costs[j] <= budget + 1e-12
    )
    mixture = best_fixed_mixture(table, costs, budget)
    assert mixture is not None
    assert mixture @ costs <= budget + 1e-9
    assert mixture.sum() == pytest.approx(1.0)
    assert table.mixture_quality(mixture) >= best - 1e-9


def test_best_fixed_mixture__deeper_is_worse__keeps_the_cheap_exit() -> None:
    counts = hand_counts()
    swapped = tuple(array[:, ::-1] for array in counts)
    # Exit 0 now scores 0.35 and exit 1 only 0.4 at twice the cost; a budget of 1 affords the first alone.
    mixture = best_fixed_mixture(dense_table(*swapped), np.array([1.0, 2.0]), 1.0)
    np.testing.assert_array_equal(mixture, [1.0, 0.0])
    # With the better exit the cheaper one, a budget of 2 still buys only the cheap one.
    mixture = best_fixed_mixture(dense_table(*counts), np.array([1.0, 2.0]), 2.0)
    np.testing.assert_array_equal(mixture, [1.0, 0.0])


def test_best_fixed_mixture__budget_below_every_exit__is_none() -> None:
    assert best_fixed_mixture(random_table(0, 5, 2, 2), np.array([2.0, 3.0]), 1.9) is None


def test_best_fixed_mixture__budget_of_an_exit_rounded_below_it__affords_the_exit() -> None:
    # The gate that sends everybody to exit 0 has its cost, added in another order.
    found = best_fixed_mixture(random_table(0, 4, 2, 3), np.array([0.1 + 0.2, 1.0]), 0.3)
    assert found is not None
    assert found[0] == pytest.approx(1.0)


def test_bootstrap_totals__many_images__equals_plain_resampling() -> None:
    # More images than one slice holds; the reference repeats the draw and adds image by image.
    counts = random_counts(2, 1500, 2, 3)
    table = dense_table(*counts)
    assignment = np.random.default_rng(4).integers(0, 2, 1500)
    totals = bootstrap_totals(table, one_hot(assignment, 2)[None], replicates=3, seed=9)
    rng = np.random.default_rng(9)
    for replicate in range(3):
        drawn = rng.integers(0, 1500, 1500)
        sums = [array[drawn, assignment[drawn]].sum(axis=0) for array in counts]
        assert pq_of_totals(totals[replicate, 0]) == pytest.approx(plain_pq(*sums), abs=1e-12)


def test_compare__assignment_equal_to_control__lead_is_zero() -> None:
    table = random_table(6, 80, 3, 4)
    middle = table.fixed_assignment(1)
    weights = np.stack([one_hot(middle, 3), np.broadcast_to(np.array([0.0, 1.0, 0.0]), (80, 3))])
    quality = table.replicates(weights, 50, seed=0)
    comparison = compare(quality[:, 0], quality[:, 1])
    assert comparison.lead == pytest.approx((0.0, 0.0), abs=1e-12)
    assert comparison.pq[0] < table.assignment_quality(middle) < comparison.pq[1]


def test_percentile_interval__hundred_values__hand_worked() -> None:
    # Linear quantiles of 0..100: 2.5 and 97.5; undefined replicates do not count.
    assert percentile_interval(np.append(np.arange(101.0), np.nan)) == pytest.approx((2.5, 97.5))
    assert all(np.isnan(percentile_interval(np.array([np.nan]))))


def test_one_hot__assignment__sums_to_one() -> None:
    np.testing.assert_array_equal(one_hot(np.array([1, 0]), 2), [[0.0, 1.0], [1.0, 0.0]])


def test_contributions__two_images__hand_worked() -> None:
    # At exit 1 everywhere class 0 has IoU 1.4 over 2 (PQ 0.7), class 1 has 0 over 0.5 (PQ 0); C = 2 classes, N = 2.
    # Image 0 at exit 0: a miss, (0 - 0.7 * 0.5) / 2 / C * N = -0.175; at exit 1: (0.8 - 0.7) / 2 = 0.05.
    # Image 1: (0.6 - 0.7) / 2 = -0.05 at both; its false positive of a class with PQ 0 costs nothing to first order.
    found = dense_table(*hand_counts()).contributions()
    np.testing.assert_allclose(found, [[-0.175, 0.05], [-0.05, -0.05]], rtol=0, atol=1e-15)


def test_contributions__one_of_many_images_changes_exit__first_order_change_of_dataset_pq() -> None:
    # Law: moving one image from the deepest exit changes the data set's PQ by the difference of its contributions
    # over N, up to second order, O(1 / N^2).
    N = 600
    table = random_table(5, N, 3, 4)
    worth, deepest = table.contributions(), table.fixed_assignment(2)
    assert worth[:, -1].sum() == pytest.approx(0.0, abs=1e-9)
    for image in range(0, N, 60):
        moved = deepest.copy()
        moved[image] = 0
        change = (table.assignment_quality(moved) - table.assignment_quality(deepest)) * N
        assert change == pytest.approx(worth[image, 0] - worth[image, -1], abs=30 / N)


@pytest.mark.parametrize("seed", range(8))
def test_choice_within__any_budget__no_other_choice_of_its_cost_is_worth_more(seed: int) -> None:
    # Origin: all 3^5 choices.
    rng = np.random.default_rng(seed)
    worth, costs = rng.normal(0.0, 0.1, (5, 3)), np.cumsum(rng.uniform(1.0, 2.0, (5, 3)), axis=1)
    rows = np.arange(5)
    every = [(costs[rows, c].mean(), worth[rows, c].sum()) for c in itertools.product(range(3), repeat=5)]
    for budget in rng.uniform(costs[:, 0].mean(), costs[:, 2].mean(), 4):
        chosen = choice_within(worth, costs, budget)
        cost, value = costs[rows, chosen].mean(), worth[rows, chosen].sum()
        assert cost <= budget + 1e-9
        assert value == pytest.approx(max(worth_ for cost_, worth_ in every if cost_ <= cost + 1e-12))
    cheapest = choice_within(worth, costs, 0.1)
    assert cheapest.tolist() == [0] * 5
    worth[2] = np.nan
    assert choice_within(worth, costs, 100.0)[2] == 0
