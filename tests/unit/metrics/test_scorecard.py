"""Rows of an evaluation from generated counts: each against sums written out plainly."""

import numpy as np
import pytest
from helpers_counts import dense_table
from helpers_gate import plain_assignment_pq, random_counts

from ecocli.metrics.assignment import CountTable
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.panoptic_quality import ImageCounts, PanopticQuality, image_pq, panoptic_quality
from ecocli.metrics.scorecard import GateRun, ScoreRow, expected_counts, gate_lead, image_qualities, score_rows

N, E, K = 30, 3, 5
DEPTHS = (2, 4, 6)
IS_THING = (True, True, True, False, False)
COUNTS = random_counts(7, N, E, K)
GFLOPS = np.linspace(1.0, 2.0, N)[:, None] * np.array([10.0, 13.0, 16.0])


def table_of(counts: CountTable, costs: np.ndarray, *drawn: int) -> ExitTable[CountTable]:
    return ExitTable(DEPTHS, counts, image_qualities(counts), costs, costs / 2, *drawn)


def make_table(replicates: int = 200, seed: int = 1) -> ExitTable[CountTable]:
    return table_of(dense_table(*COUNTS), GFLOPS, replicates, seed)


def gate_run(depths: np.ndarray, counts: ImageCounts, gflops: float) -> GateRun[PanopticQuality]:
    quality = panoptic_quality(counts)
    return GateRun(depths, quality, quality.pq, gflops)


def run_of(depths: list[int], gflops: float = 0.25) -> GateRun[PanopticQuality]:
    chosen = [DEPTHS.index(depth) for depth in depths]
    sums = [sum(array[n, e] for n, e in enumerate(chosen)) for array in COUNTS]
    return gate_run(np.array(depths), ImageCounts(*sums), gflops)


def rows_of(run: GateRun[PanopticQuality] | None) -> list[ScoreRow[PanopticQuality]]:
    table = make_table()
    return score_rows(table, run, lambda weights: panoptic_quality(expected_counts(table.counts, weights), IS_THING))


DEPTHS_CHOSEN = [DEPTHS[n % 2 * 2] for n in range(N)]


def test_image_qualities__random_counts__equals_image_pq() -> None:
    found = image_qualities(dense_table(*COUNTS))
    expected = [[image_pq(ImageCounts(*(array[n, e] for array in COUNTS))) for e in range(E)] for n in range(N)]
    np.testing.assert_array_equal(found, np.array(expected, np.float64))
    assert np.isfinite(found).sum() > N


def test_image_qualities__nothing_to_score__is_nan() -> None:
    empty = np.zeros((1, 2, 3), np.int64)
    assert np.isnan(image_qualities(dense_table(empty.astype(float), empty, empty, empty))).all()


def test_score_rows__with_gate__holds_gate_and_controls_with_their_costs() -> None:
    rows = {row.name: row for row in rows_of(run_of(DEPTHS_CHOSEN))}
    assert list(rows) == ["exit 2", "exit 4", "exit 6", "gate", "random", "oracle"]
    for e, depth in enumerate(DEPTHS):
        row = rows[f"exit {depth}"]
        assert row.quality.pq == pytest.approx(plain_assignment_pq(COUNTS, np.full(N, e)), abs=1e-12)
        assert (row.gflops, row.encoder_gflops) == pytest.approx((GFLOPS[:, e].mean(), GFLOPS[:, e].mean() / 2))
        assert row.mean_depth == depth
    gate, random = rows["gate"], rows["random"]
    chosen = np.array([DEPTHS.index(depth) for depth in DEPTHS_CHOSEN])
    assert gate.quality.pq == pytest.approx(plain_assignment_pq(COUNTS, chosen), abs=1e-12)
    assert gate.gflops == pytest.approx(GFLOPS[np.arange(N), chosen].mean() + 0.25)
    assert gate.exit_shares == random.exit_shares == (0.5, 0.0, 0.5)
    assert random.quality.pq == pytest.approx(make_table().counts.mixture_quality(np.array([0.5, 0.0, 0.5])), abs=1e-12)
    assert random.gflops == pytest.approx((GFLOPS[:, 0].mean() + GFLOPS[:, 2].mean()) / 2)
    # An image that is undefined at an exit goes to the shallowest.
    quality = image_qualities(make_table().counts)
    best = np.array([0 if np.isnan(row).any() else row.argmax() for row in quality])
    assert rows["oracle"].quality.pq == pytest.approx(plain_assignment_pq(COUNTS, best), abs=1e-12)
    assert rows["oracle"].quality.pq > max(rows[f"exit {depth}"].quality.pq or 0 for depth in DEPTHS)


def test_score_rows__without_gate__holds_exits_and_oracle() -> None:
    assert [row.name for row in rows_of(None)] == ["exit 2", "exit 4", "exit 6", "oracle"]


def test_gate_lead__gate_that_is_a_fixed_exit__leads_its_own_blend_by_nothing() -> None:
    # A gate that sends everybody to the cheapest exit for free is that exit.
    lead = gate_lead(make_table(), run_of([2] * N, gflops=0.0))
    assert lead is not None
    assert lead.mixture == (1.0, 0.0, 0.0)
    assert (lead.lead, lead.low, lead.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_gate_lead__oracle_choice__leads_with_an_interval_above_zero() -> None:
    quality = image_qualities(make_table().counts)
    run = run_of([DEPTHS[e] for e in quality.argmax(axis=1)])
    lead = gate_lead(make_table(), run)
    assert lead is not None
    assert 0 < lead.low < lead.lead < lead.high
    table = make_table()
    assert lead.control_pq == pytest.approx(table.counts.mixture_quality(np.array(lead.mixture)))
    chosen = table.exit_index(run.depths)
    assert lead.lead == pytest.approx(table.counts.assignment_quality(chosen) - lead.control_pq)
    budget = np.take_along_axis(GFLOPS, chosen[:, None], axis=1).mean() + run.gflops
    assert np.array(lead.mixture) @ GFLOPS.mean(axis=0) <= budget + 1e-9
    assert gate_lead(table, run) == lead
    other = gate_lead(make_table(seed=2), run)
    assert other is not None
    assert other.lead == lead.lead
    assert (other.low, other.high) != (lead.low, lead.high)


def test_gate_lead__gate_that_costs_something_itself__meets_a_blend_that_may_spend_as_much() -> None:
    # By hand: one class, one segment found in each image with an IoU of 0.5, 0.6 and 0.9 at costs of 10, 13 and 16. The
    # gate sends all images to the first exit and costs 1.5 itself. For 11.5 the blend has a quarter at the last exit.
    iou, ones = np.tile([[[0.5], [0.6], [0.9]]], (4, 1, 1)), np.ones((4, 3, 1), np.int64)
    counts = dense_table(iou, ones, 0 * ones, 0 * ones)
    costs = np.tile([10.0, 13.0, 16.0], (4, 1))
    run = gate_run(np.full(4, 2), ImageCounts(np.array([2.0]), np.array([4]), np.array([0]), np.array([0])), 1.5)
    lead = gate_lead(table_of(counts, costs, 10), run)
    assert lead is not None
    assert lead.mixture == pytest.approx((0.75, 0.0, 0.25))
    assert (lead.control_pq, lead.lead) == pytest.approx((0.6, -0.1))
    # All images are alike, so every resampling of them says the same.
    assert (lead.low, lead.high) == pytest.approx((-0.1, -0.1))


def test_gate_lead__own_cost_and_mirror_images__attainable_may_spend_as_much() -> None:
    # By hand: only the first of four images gains from depth, 0.4 at the last exit. The 1.5 that the gate costs on each
    # image pays for that one: attainable are 0.6, where the blend has 0.525 and the gate 0.5.
    iou, ones = np.full((4, 3, 1), 0.5), np.ones((4, 3, 1), np.int64)
    iou[0, :, 0] = 0.5, 0.6, 0.9
    table = table_of(dense_table(iou, ones, 0 * ones, 0 * ones), np.tile([10.0, 13.0, 16.0], (4, 1)), 10)
    run = gate_run(np.full(4, 2), ImageCounts(np.array([2.0]), np.array([4]), np.array([0]), np.array([0])), 1.5)
    lead = gate_lead(table, run, mirror=iou[..., 0])
    assert lead is not None
    assert (lead.control_pq, lead.lead, lead.reached) == pytest.approx((0.525, -0.025, -1 / 3))
    rows = score_rows(table, run, lambda weights: panoptic_quality(expected_counts(table.counts, weights)), iou[..., 0])
    (attainable,) = (row for row in rows if row.name == "attainable")
    assert (attainable.exit_shares, attainable.gflops) == ((0.75, 0.0, 0.25), 11.5)
    assert attainable.quality.pq == pytest.approx(0.6)


def test_gate_lead__nothing_to_score__is_none() -> None:
    empty = np.zeros((2, E, K), np.int64)
    table = table_of(dense_table(empty.astype(float), empty, empty, empty), GFLOPS[:2])
    assert gate_lead(table, gate_run(np.array([2, 2]), ImageCounts.zeros(K), 0.0)) is None
