"""Trade-off curves: ends and middles against the single values they are made of."""

import numpy as np
import pytest
from helpers_counts import dense_table
from helpers_gate import random_counts

from ecocli.metrics.assignment import CountTable, oracle_assignment
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.scorecard import image_qualities
from ecocli.metrics.tradeoff import attainable_curve, blend_curve, oracle_curve

COSTS = np.linspace(1.0, 2.0, 20)[:, None] * np.array([10.0, 13.0, 16.0])
COUNTS = dense_table(*random_counts(3, 20, 3, 4))
TABLE = ExitTable((2, 3, 4), COUNTS, image_qualities(COUNTS), COSTS, COSTS)


def test_blend_curve__three_exits__passes_through_each_and_blends_neighbours() -> None:
    points = blend_curve(TABLE, steps=2)
    assert len(points) == 5
    for point, mixture in zip(points, ([1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]), strict=True):
        assert point.pq == pytest.approx(TABLE.counts.mixture_quality(np.array(mixture, float)))
        assert point.gflops == pytest.approx(np.array(mixture) @ COSTS.mean(axis=0))


def test_blend_curve__one_exit__is_a_point() -> None:
    counts = dense_table(*random_counts(3, 4, 1, 4))
    table = ExitTable((6,), counts, image_qualities(counts), np.full((4, 1), 5.0), np.full((4, 1), 5.0))
    (point,) = blend_curve(table)
    assert (point.gflops, point.pq) == (5.0, pytest.approx(counts.assignment_quality(np.zeros(4, np.int64))))


def test_oracle_curve__prices__go_from_the_shallowest_exit_to_the_oracle_of_quality() -> None:
    points = oracle_curve(TABLE, (0.0, 0.15, 10.0))
    assert [p.gflops for p in points] == sorted({p.gflops for p in points})
    assert len(points) == 3
    best = oracle_assignment(image_qualities(TABLE.counts))
    assert points[-1].pq == pytest.approx(TABLE.counts.assignment_quality(best))
    assert points[0].gflops == pytest.approx(COSTS[:, 0].mean())


def table_of_two(iou: list[list[float]], costs: list[float]) -> ExitTable[CountTable]:
    """Images of one segment with these IoUs at two exits."""
    ones = np.ones((len(iou), 2, 1), np.int64)
    counts, gflops = dense_table(np.array(iou)[..., None], ones, 0 * ones, 0 * ones), np.tile(costs, (len(iou), 1))
    return ExitTable((2, 4), counts, image_qualities(counts), gflops, gflops)


def test_oracle_curve__choices_of_equal_cost__the_point_is_that_of_the_lowest_price() -> None:
    # Free of charge the deeper exit is the better one; at a price per layer it is not, though it costs as many GFLOPs.
    (point,) = oracle_curve(table_of_two([[0.6, 0.8]], [10.0, 10.0]), (0.0, 0.2))
    assert (point.gflops, point.pq) == (10.0, pytest.approx(0.8))


def test_oracle_curve__price__is_of_each_layer_not_of_each_exit() -> None:
    # Two layers deeper gain 0.2, at 0.15 a layer too little.
    (point,) = oracle_curve(table_of_two([[0.6, 0.8]], [10.0, 12.0]), (0.15,))
    assert point.gflops == 10.0


def test_attainable_curve__two_exits__has_as_many_budgets_as_asked() -> None:
    # By hand: depth gains 0.1, 0.3, 0 and 0.2, so half the way to the deeper exit's cost buys images 1 and 3.
    table = table_of_two([[0.5, 0.6], [0.5, 0.8], [0.5, 0.5], [0.5, 0.7]], [10.0, 12.0])
    curve = attainable_curve(table, table.quality, steps=2)
    assert [point.gflops for point in curve] == [10.0, 11.0, 11.5]
    assert [point.pq for point in curve] == pytest.approx([0.5, 0.625, 0.65])


def test_attainable_curve__mirror_equal_to_the_image__ends_at_the_best_contributions() -> None:
    counts = dense_table(*random_counts(3, 40, 3, 4))
    gflops = np.tile([10.0, 12.0, 17.0], (40, 1))
    table = ExitTable((2, 3, 4), counts, image_qualities(counts), gflops, gflops / 2)
    worth = counts.contributions()
    curve = attainable_curve(table, worth)
    assert [point.gflops for point in curve] == sorted({point.gflops for point in curve})
    assert curve[0].gflops == 10.0
    assert curve[0].pq == counts.assignment_quality(np.zeros(40, np.int64))
    assert curve[-1].pq == counts.assignment_quality(oracle_assignment(worth))
    assert all(point.gflops <= 17.0 for point in curve)
    # Decided by the images' own truth, it leads the blends everywhere in between.
    for point in curve[1:]:
        assert point.pq > np.interp(point.gflops, *zip(*[(b.gflops, b.pq) for b in blend_curve(table)], strict=True))
