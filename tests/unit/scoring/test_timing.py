"""Milliseconds of an evaluation, from a clock that the test sets."""

import numpy as np
import pytest
from helpers_inference import tiny_model

from ecocli.data.batching import ImageBatch, make_batch
from ecocli.scoring import timing
from ecocli.scoring.timing import time_choices


def batch_of(count: int) -> ImageBatch:
    return make_batch(
        [np.zeros((32, 32, 3), np.uint8)] * count,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        32,
        original_sizes=[(32, 32)] * count,
        image_ids=[str(n) for n in range(count)],
    )


def test_time_choices__slow_first_round__median_of_the_later_rounds_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two exits in turn, four rounds: 10 s each while all warms up, then 1 and 10, 2 and 20, 6 and 60 s.
    now, seconds = 0.0, iter([10.0, 10.0, 1.0, 10.0, 2.0, 20.0, 6.0, 60.0])
    ran: list[tuple[int, int]] = []

    def predict(model: object, depth: int, batch: ImageBatch) -> list[object]:
        nonlocal now
        ran.append((depth, len(batch.image_ids)))
        if len(batch.image_ids) == 1:  # the last batch of a choice
            now += next(seconds)
        return []

    monkeypatch.setattr(timing, "_predict_at", predict)
    monkeypatch.setattr(timing, "_now", lambda batch: now)
    found = time_choices(tiny_model(), None, (1, 3), lambda _: None, [batch_of(3), batch_of(1)])
    # Four images: medians of 2 s and of 20 s.
    assert found == {"exit 1": 500.0, "exit 3": 5000.0}
    assert ran == 4 * [(1, 3), (1, 1), (3, 3), (3, 1)]


@pytest.mark.parametrize("seconds, rounds, expected", [(40.0, 2, [2]), (70.0, 1, [1]), (20.0, 4, []), (15.0, 4, [])])
def test_time_choices__slow_machine__tells_that_rounds_were_left_out(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rounds: int, expected: list[int]
) -> None:
    # No round begins after 60 s; what would have been the last one is not told of.
    now, ran = 0.0, []

    def predict(model: object, depth: int, batch: ImageBatch) -> list[object]:
        nonlocal now
        ran.append(depth)
        now += seconds
        return []

    monkeypatch.setattr(timing, "_predict_at", predict)
    monkeypatch.setattr(timing, "_now", lambda batch: now)
    told: list[int] = []
    found = time_choices(tiny_model(), None, (1,), lambda _: None, [batch_of(1)], cut_short=told.append)
    assert found == {"exit 1": 1000.0 * seconds}
    assert (len(ran), told) == (rounds, expected)
