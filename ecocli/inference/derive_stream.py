"""Rows of the derived table for a stream of batches, scored on threads while the network computes the next batch.

Axes: E exits. The arithmetic is that of ``ecocli.inference.derive_rows``, batch by batch; only the clock differs.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float16

from ecocli.inference.batches import LabelledBatch
from ecocli.inference.derive_rows import DerivedRow, ScoredPrediction, score_prediction
from ecocli.inference.postprocess import PanopticRule
from ecocli.inference.predictor import predict_exits
from ecocli.model.gate import FeatureName, pool_features
from ecocli.model.mask2former import Mask2Former

_BATCHES_IN_FLIGHT = 1


@dataclass(frozen=True, eq=False)
class _Pending:
    """A batch whose predictions are being scored: one future per image and exit."""

    batch: LabelledBatch
    features: dict[FeatureName, Float16[np.ndarray, "B _c"]]
    scores: list[list[Future[ScoredPrediction]]]

    def rows(self) -> list[tuple[int, DerivedRow]]:
        images = self.batch.images
        height, width = images.images.shape[-2:]
        return [
            (
                position,
                DerivedRow(
                    image_id=images.image_ids[place],
                    original_size=images.original_sizes[place],
                    padded_size=(height, width),
                    counts=tuple(score.result().counts for score in self.scores[place]),
                    features={name: values[place] for name, values in self.features.items()},
                ),
            )
            for place, position in enumerate(self.batch.positions)
        ]


def stream_rows(
    model: Mask2Former,
    batches: Iterable[LabelledBatch],
    exit_depths: tuple[int, ...],
    rule: PanopticRule,
    threads: int,
) -> Iterator[list[tuple[int, DerivedRow]]]:
    """Yield the rows of each batch with their positions in the data set, in order.

    Args:
        model: In evaluation mode, on the batches' device.
        batches: Each of images of one padded size.
        exit_depths: Ascending, in encoder layers run.
        rule: Panoptic post-processing.
        threads: For scoring.

    Raises:
        DataError: A ground truth contradicts itself, or a file cannot be read; the message names it.
    """
    pending: deque[_Pending] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in batches:
                pending.append(_start(model, batch, exit_depths, rule, pool))
                if len(pending) > _BATCHES_IN_FLIGHT:
                    yield pending.popleft().rows()
            while pending:
                yield pending.popleft().rows()
        finally:
            # After an error nobody waits for the rest.
            pool.shutdown(wait=False, cancel_futures=True)


@torch.no_grad()
def _start(
    model: Mask2Former,
    batch: LabelledBatch,
    exit_depths: tuple[int, ...],
    rule: PanopticRule,
    pool: ThreadPoolExecutor,
) -> _Pending:
    """Run the network on a batch and hand every prediction to the pool as soon as it is there."""
    features = model.extract(batch.images.images)
    pooled = pool_features(features, list(batch.images.image_sizes))
    scores: list[list[Future[ScoredPrediction]]] = [[] for _ in batch.truths]
    for predictions in predict_exits(model, features, batch.images, exit_depths):
        for place, (prediction, truth) in enumerate(zip(predictions, batch.truths, strict=True)):
            scores[place].append(pool.submit(score_prediction, prediction, truth, rule))
    return _Pending(batch, {name: values.half().cpu().numpy() for name, values in pooled.items()}, scores)
