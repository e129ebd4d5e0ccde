"""Milliseconds per image, as an evaluation's batches take them: network and post-processing.

Axes: B images of a batch. Reading and resizing images is left out. Times belong to a machine: they are shown and kept
as provenance, never as part of a result. ``eco profile`` measures more finely.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from ecocli.data.batching import ImageBatch
from ecocli.inference.predictor import ExitGate, ImagePrediction, predict_exits, predict_gated
from ecocli.model.contracts import ExitModel

ROUNDS = 4
MOST_SECONDS = 120.0
"""After so long no further round begins: on a slow machine the times of one round must do."""


@torch.no_grad()
def time_choices(
    model: ExitModel,
    gate: ExitGate | None,
    exit_depths: Sequence[int],
    post_process: Callable[[ImagePrediction], None],
    batches: Sequence[ImageBatch],
    advance: Callable[[], None] = lambda: None,
    cut_short: Callable[[int], None] = lambda rounds: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Measure every fixed exit and the gate on the same batches.

    Args:
        model: In evaluation mode, on the batches' device.
        exit_depths: The fixed exits, in encoder layers run.
        batches: At least one batch.
        advance: Told of each choice that was timed on all batches, ``ROUNDS`` times each.
        cut_short: Told how many rounds there were, where they are fewer.
        should_stop: Asked before every batch.

    Returns:
        Milliseconds per image by ``exit <depth>`` and ``gate``: the median over rounds of the mean over the batches.
        The first, unmeasured round warms up, unless it alone takes half of ``MOST_SECONDS``. Nothing if it was stopped.
    """
    choices: dict[str, Callable[[ImageBatch], list[ImagePrediction]]] = {
        f"exit {depth}": partial(_predict_at, model, depth) for depth in exit_depths
    }
    if gate is not None:
        choices["gate"] = partial(predict_gated, model, gate)
    images = sum(len(batch.image_ids) for batch in batches)
    seconds: dict[str, list[float]] = {name: [] for name in choices}
    # Rounds go over all choices in turn, so that a machine that slows down slows all of them.
    began = _now(batches[0])
    for done in range(1, ROUNDS + 1):
        for name, predict in choices.items():
            start = _now(batches[0])
            for batch in batches:
                if should_stop():
                    return {}
                for prediction in predict(batch):
                    post_process(prediction)
            seconds[name].append(_now(batches[0]) - start)
            advance()
        if done < ROUNDS and _now(batches[0]) - began > MOST_SECONDS / 2:
            cut_short(done)
            break
    seconds = {name: values[1:] or values for name, values in seconds.items()}
    return {name: 1000.0 * statistics.median(values) / images for name, values in seconds.items()}


def _predict_at(model: ExitModel, depth: int, batch: ImageBatch) -> list[ImagePrediction]:
    (predictions,) = predict_exits(model, model.extract(batch.images, batch.image_sizes), batch, (depth,))
    return predictions


def _now(batch: ImageBatch) -> float:
    if batch.images.is_cuda:
        torch.cuda.synchronize(batch.images.device)
    return time.perf_counter()
