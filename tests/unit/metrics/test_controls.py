"""A gate beside its controls, on a table small enough to work out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from helpers_counts import dense_table

from ecocli.metrics.controls import Arena


def arena() -> Arena:
    """Four images of one class, one segment each; PQ of the data set is then the mean IoU.

    Images 0 and 1 gain 0.2 and 0.1 from the deeper exit, image 2 nothing, image 3 loses 0.1.
    """
    quality = np.array([[0.6, 0.8], [0.6, 0.7], [0.7, 0.7], [0.8, 0.7]])
    one, none = np.ones((4, 2, 1), np.int64), np.zeros((4, 2, 1), np.int64)
    counts = dense_table(quality[..., None], one, none, none)
    costs = np.tile([2.0, 4.0], (4, 1))
    return Arena((2, 4), counts, quality, costs * 10.0, costs * 5.0, 200, costs=costs)


def arena_of(rows: list[list[float]]) -> Arena:
    """Images of one segment with these IoUs; there is nothing to score where one is NaN."""
    quality = np.array(rows)
    iou = np.nan_to_num(quality)[..., None]
    found = (iou > 0).astype(np.int64)
    costs = np.tile([2.0, 4.0], (len(rows), 1))
    return Arena((2, 4), dense_table(iou, found, 0 * found, 0 * found), quality, costs, costs, 10, costs=costs)


def test_judge__gate_that_deepens_images_0_and_3__hand_worked() -> None:
    verdict = arena().judge(np.array([1, 0, 0, 1]), beta=0.03, majority=1)
    # Gate: 0.8, 0.6, 0.7, 0.7. Exit 2: 0.6, 0.6, 0.7, 0.8. Exit 4: 0.8, 0.7, 0.7, 0.7.
    assert verdict.gate.pq == pytest.approx(0.7)
    assert [choice.pq for choice in verdict.fixed] == pytest.approx([0.675, 0.725])
    assert verdict.best_fixed == 1
    assert (verdict.gate.cost, verdict.gate.gflops, verdict.gate.encoder_gflops) == pytest.approx((3.0, 30.0, 15.0))
    assert (verdict.gate.mean_depth, verdict.gate.exit_shares) == (3.0, (0.5, 0.5))
    # Half and half costs the same; expected IoU sum 2.7 / 2 + 2.9 / 2 over four segments.
    assert verdict.blend is not None
    assert verdict.blend.exit_shares == pytest.approx((0.5, 0.5))
    assert verdict.blend.pq == pytest.approx(0.7)
    assert verdict.lead == pytest.approx(0.0, abs=1e-12)
    assert not verdict.beats_blend
    assert verdict.random.pq == pytest.approx(0.7)
    # Best exit per image: 0.8, 0.7, 0.7 (shallow), 0.8 (shallow).
    assert verdict.oracle.pq == pytest.approx(0.75)
    assert verdict.oracle.exit_shares == (0.5, 0.5)
    # The deeper exit costs 0.06 more: worth it on images 0 and 1. The gate hits the targets on images 0 and 2.
    assert verdict.utility_oracle.pq == pytest.approx(0.75)
    assert (verdict.accuracy, verdict.majority_accuracy) == (0.5, 0.5)


def test_judge__mirror_images_known__attainable_at_the_gates_cost() -> None:
    # To the mirror images depth is worth 0.3, 0.2, 0 and 0.1; the gate pays for two deep exits: those of 0 and 1.
    told = replace(arena(), mirror=np.array([[0.5, 0.8], [0.5, 0.7], [0.7, 0.7], [0.6, 0.7]]))
    gate = np.array([0, 1, 0, 1])
    verdict = told.judge(gate, beta=0.0, majority=0)
    assert verdict.attainable is not None
    assert verdict.attainable.pq == pytest.approx((0.8 + 0.7 + 0.7 + 0.8) / 4)
    assert (verdict.attainable.gflops, verdict.attainable.exit_shares) == (30.0, (0.5, 0.5))
    # Gate: 0.6, 0.7, 0.7, 0.7, so 0.675; half and half is 0.7. It loses 0.025 where 0.05 can be won.
    assert verdict.reached == pytest.approx(-0.5)
    # A gate that always goes deep leaves room for all three images that gain; the tie takes the shallower exit.
    assert told.judge(np.ones(4, np.int64), 0.0, 0).attainable.exit_shares == (0.25, 0.75)  # type: ignore[union-attr]
    plain = arena().judge(gate, beta=0.0, majority=0)
    assert plain.attainable is None
    assert np.isnan(plain.reached)


def test_judge__gate_that_is_the_oracle__beats_the_blend_in_every_replicate() -> None:
    verdict = arena().judge(np.array([1, 1, 0, 0]), beta=0.03, majority=0)
    assert verdict.lead == pytest.approx(0.05)
    # In every resampling the gate takes the better exit of each image, so the lead can never be negative.
    assert verdict.lead_interval[0] >= 0.0
    assert verdict.lead_interval[0] <= 0.05 <= verdict.lead_interval[1]
    assert verdict.pq_interval[0] < verdict.gate.pq < verdict.pq_interval[1]
    assert verdict.accuracy == 1.0
    # Six equally likely shuffles of (1, 1, 0, 0): their PQs spread.
    assert verdict.random_spread > 0.01


def test_judge__own_cost__counts_as_spent() -> None:
    verdict = arena().judge(np.zeros(4, np.int64), beta=0.0, majority=0, own_cost=0.5, own_gflops=5.0, draws=0)
    assert (verdict.gate.cost, verdict.gate.gflops) == (2.5, 25.0)
    # With the same 2.5 a blend affords the deeper exit on a quarter of the images.
    assert verdict.blend is not None
    assert verdict.blend.exit_shares == pytest.approx((0.75, 0.25))
    assert np.isnan(verdict.random_spread)


def test_judge__own_cost_and_mirror_images__attainable_may_spend_as_much() -> None:
    # Depth costs 20, the gate itself 5 of that on each of four images: one image, of the greatest gain, goes deep.
    told = replace(arena(), mirror=np.array([[0.5, 0.8], [0.5, 0.7], [0.7, 0.7], [0.6, 0.7]]))
    verdict = told.judge(np.zeros(4, np.int64), beta=0.0, majority=0, own_gflops=5.0, draws=0)
    assert verdict.attainable is not None
    assert verdict.attainable.exit_shares == (0.75, 0.25)
    assert verdict.attainable.pq == pytest.approx((0.8 + 0.6 + 0.7 + 0.8) / 4)
    # The blend is 0.75 * 0.675 + 0.25 * 0.725 = 0.6875: 0.0125 above the gate, 0.0375 below the attainable.
    assert verdict.reached == pytest.approx(-1 / 3)


def test_judge__milliseconds_given__blend_and_attainable_cost_as_many_and_the_gate_itself_none() -> None:
    # Depth costs 1, 2, 1 and 1 ms on the four images. The gate takes image 1 deep: 1.5 ms on average, which buys the
    # deeper exit, 2.25 ms, on 0.5 / 1.25 of the images. To the mirror images depth gains 0.3, 0.1, 0 and 0.15 per ms:
    # the 2 ms that the gate has spent buy images 0 and 3.
    told = replace(
        arena(),
        milliseconds=np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0], [1.0, 2.0]]),
        mirror=np.array([[0.5, 0.8], [0.5, 0.7], [0.7, 0.7], [0.6, 0.75]]),
    )
    verdict = told.judge(np.array([0, 1, 0, 0]), beta=0.0, majority=0, own_gflops=5.0, draws=0)
    assert verdict.unit == "ms"
    assert verdict.gate.gflops == 30.0
    assert verdict.blend is not None
    assert verdict.blend.exit_shares == pytest.approx((0.6, 0.4))
    assert verdict.attainable is not None
    assert verdict.attainable.exit_shares == (0.5, 0.5)
    assert verdict.attainable.pq == pytest.approx((0.8 + 0.6 + 0.7 + 0.7) / 4)


def test_judge__image_without_quality__counts_in_pq_but_has_no_target() -> None:
    verdict = arena_of([[0.6, 0.8], [np.nan, np.nan], [np.nan, 0.6], [np.nan, np.nan]]).judge(
        np.ones(4, np.int64), 0.0, 1
    )
    assert verdict.gate.pq == pytest.approx(0.7)
    assert (verdict.accuracy, verdict.majority_accuracy) == (1.0, 1.0)
    # The first image alone is defined at both exits: the oracle takes the others at the shallower one.
    assert verdict.oracle.exit_shares == (0.75, 0.25)


@pytest.mark.parametrize(
    ("quality", "best"), [([[0.6, 0.6]], 0), ([[0.6, 0.7]], 1), ([[np.nan, 0.7]], 1), ([[np.nan, np.nan]], 0)]
)
def test_judge__best_fixed__is_the_shallowest_of_equals_and_of_defined_ones(
    quality: list[list[float]], best: int
) -> None:
    assert arena_of(quality).judge(np.zeros(1, np.int64), 0.0, 0).best_fixed == best


def test_verdict__nothing_above_the_blend__nothing_reached_and_not_beaten() -> None:
    told = replace(arena(), mirror=arena().quality)
    verdict = told.judge(np.array([1, 1, 0, 0]), beta=0.0, majority=0)
    assert np.isnan(replace(verdict, attainable=verdict.blend).reached)
    # An interval that begins at zero does not lie above it.
    assert replace(verdict, lead_interval=(1e-9, 0.1)).beats_blend
    assert not replace(verdict, lead_interval=(0.0, 0.1)).beats_blend


def test_judge__choices_cheaper_than_any_exit__have_no_blend_and_no_lead() -> None:
    # Each of the two images is cheap at another exit: the choices cost 1 where both exits cost 5 on average.
    costs = np.array([[1.0, 9.0], [9.0, 1.0]])
    table = replace(arena_of([[0.6, 0.8], [0.6, 0.7]]), gflops=costs)
    chosen = np.array([0, 1])
    verdict = table.judge(chosen, beta=0.0, majority=0)
    assert verdict.blend is None
    assert np.isnan([verdict.lead, *verdict.lead_interval, table.lead(chosen)]).all()
    assert np.isnan(table.lead_replicates(chosen)).all()


def test_judge__nothing_to_score__is_nan_throughout() -> None:
    none = np.zeros((2, 2, 1), np.int64)
    table = dense_table(none.astype(float), none, none, none)
    costs = np.tile([2.0, 4.0], (2, 1))
    verdict = Arena((2, 4), table, np.full((2, 2), np.nan), costs, costs, 10, costs=costs).judge(
        np.array([0, 1]), 0.0, 0
    )
    assert np.isnan([verdict.gate.pq, verdict.accuracy, verdict.lead, *verdict.lead_interval]).all()
    assert not verdict.beats_blend
