"""Latency: what is measured, how it is summarised, and that parts add up."""

from collections.abc import Mapping

import pytest
import torch
from helpers_inference import tiny_model
from torch import Tensor

from ecocli.artifacts.profile_summary import Spread
from ecocli.profiling.latency import line_through, measure_latency


def test_spread__five_runs_of_two_images__median_and_quartiles_per_image() -> None:
    # Worked by hand: 2, 4, 6, 8 and 10 ms for two images are 1 to 5 ms each; quartiles at the second and fourth.
    spread = Spread.of([0.010, 0.002, 0.008, 0.004, 0.006], images=2)
    assert (spread.low_ms, spread.median_ms, spread.high_ms) == pytest.approx((2.0, 3.0, 4.0))


def test_line_through__points_on_a_line__slope_and_no_error() -> None:
    assert line_through([2, 3, 5], [14.0, 16.0, 20.0]) == pytest.approx((2.0, 0.0), abs=1e-9)


def test_line_through__one_point_off__error_relative_to_it() -> None:
    # Worked by hand: least squares through (0, 3), (1, 9), (2, 3) is the horizontal 5; the first point is 2/3 off.
    slope, error = line_through([0, 1, 2], [3.0, 9.0, 3.0])
    assert slope == pytest.approx(0.0, abs=1e-9)
    assert error == pytest.approx(2 / 3)


def test_measure_latency__tiny_model__every_exit_and_part_of_a_batch() -> None:
    finals: list[Mapping[str, Tensor]] = []
    images = torch.randn(2, 3, 64, 96)
    latency = measure_latency(
        tiny_model(), images, (1, 3), post_process=finals.append, repetitions=3, warm_up=1, gate_feature="projected"
    )
    assert [entry.exit_depth for entry in latency.exits] == [1, 3]
    # One warm-up and three measured runs of both exits, each on the whole batch.
    assert len(finals) == 8
    assert all(final["pred_masks"].shape == (1, 2, 8, 16, 24) for final in finals)
    for entry in latency.exits:
        assert tuple(entry.parts) == (
            "backbone",
            "projections",
            "encoder",
            "mask_features",
            "transformer_decoder",
            "post_processing",
        )
        assert all(part.low_ms <= part.median_ms <= part.high_ms for part in entry.parts.values())
        assert max(part.low_ms for part in entry.parts.values()) <= entry.total.high_ms
    assert (latency.padded_size, latency.batch_size, latency.dtype) == ((64, 96), 2, "float32")
    assert latency.threads == torch.get_num_threads()
    # At least the interpreter with torch, and less than any machine has.
    assert 50e6 < latency.peak_memory_bytes < 1e12


def test_measure_latency__slow_warm_up__only_later_runs_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two warm-up runs of each of two exits, ten seconds a part; then runs whose parts and gate take 1, 2 and 3 seconds.
    seconds = iter([10.0] * 4 + [1.0, 1.0, 2.0, 2.0, 3.0, 3.0])

    def run(*_: object) -> tuple[tuple[float, ...], float]:
        part = next(seconds)
        return (part,) * 6, part

    monkeypatch.setattr("ecocli.profiling.latency._run", run)
    found = measure_latency(
        tiny_model(), torch.zeros(2, 3, 64, 64), (1, 2), post_process=lambda _: None, repetitions=3, warm_up=2
    )
    # Per image of a batch of two: medians of 1 s for a part and the gate, and of 6 s for all six parts.
    for entry in found.exits:
        assert entry.parts["encoder"] == Spread(median_ms=1000.0, low_ms=750.0, high_ms=1250.0)
        assert entry.total.median_ms == 6000.0
    # Six gate runs: the quartiles lie a quarter of the way from the second to the third value, and so from above.
    assert found.gate == Spread(median_ms=1000.0, low_ms=625.0, high_ms=1375.0)
    assert next(seconds, None) is None


def test_measure_latency__bfloat16__final_predictions_come_from_autocast() -> None:
    finals: list[Mapping[str, Tensor]] = []
    measure_latency(
        tiny_model(),
        torch.randn(1, 3, 64, 64),
        (1, 2),
        post_process=finals.append,
        repetitions=2,
        warm_up=0,
        dtype="bfloat16",
    )
    assert finals[0]["pred_masks"].dtype == torch.bfloat16


def test_measure_latency__stop__ends_after_two_runs_of_every_exit() -> None:
    runs: list[Mapping[str, Tensor]] = []
    measure_latency(
        tiny_model(),
        torch.randn(1, 3, 64, 64),
        (1, 2),
        post_process=runs.append,
        repetitions=50,
        warm_up=0,
        should_stop=lambda: True,
    )
    assert len(runs) == 4
