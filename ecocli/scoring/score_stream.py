"""Rows of the derived table for a stream of batches, scored on all cores.

Axes: E exits. The arithmetic is that of ``ecocli.scoring.score_exits``, batch by batch; only the clock differs. With
the network on a GPU, a batch is scored while the next one computes. With the network on the CPU both want the same
cores, and threads of the one waiting for those of the other cost more than the overlap gains: there the images and
exits of a batch are scored side by side once its network has finished.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float16

from ecocli.config.fit_gate import FeatureName
from ecocli.inference.predictor import ImagePrediction, predict_exits
from ecocli.model.contracts import ExitModel
from ecocli.model.gate import pool_features
from ecocli.runtime.background import Background
from ecocli.scoring.batches import LabelledBatch
from ecocli.scoring.score_exits import DerivedRow


@runtime_checkable
class Scored(Protocol):
    """What scoring one image at one exit gives."""

    @property
    def counts(self) -> Any:
        """What a table keeps of it."""


Score = Callable[[ImagePrediction, Any], Scored]


@dataclass(frozen=True, eq=False)
class _Outputs:
    """What the network said on a batch: predictions exit by exit."""

    batch: LabelledBatch
    features: dict[FeatureName, Float16[np.ndarray, "B _c"]]
    exits: list[list[ImagePrediction]]


@dataclass(frozen=True, eq=False)
class _Pending:
    """A batch whose predictions are being scored: one future per image and exit."""

    outputs: _Outputs
    scores: list[list[Future[Scored]]]

    @classmethod
    def start(cls, outputs: _Outputs, score: Score, pool: Background) -> "_Pending":
        scores = [
            [pool.submit(score, predictions[place], truth) for predictions in outputs.exits]
            for place, truth in enumerate(outputs.batch.truths)
        ]
        return cls(outputs, scores)

    def rows(self) -> list[tuple[int, DerivedRow]]:
        batch = self.outputs.batch
        height, width = batch.images.images.shape[-2:]
        return [
            (
                position,
                DerivedRow(
                    image_id=batch.images.image_ids[place],
                    original_size=batch.images.original_sizes[place],
                    padded_size=(height, width),
                    counts=tuple(score.result().counts for score in self.scores[place]),
                    features={name: values[place] for name, values in self.outputs.features.items()},
                ),
            )
            for place, position in enumerate(batch.positions)
        ]


def stream_rows(
    model: ExitModel,
    batches: Iterable[LabelledBatch],
    exit_depths: tuple[int, ...],
    score: Score,
    threads: int,
) -> Generator[list[tuple[int, DerivedRow]], None, None]:
    """Yield the rows of each batch with their positions in the data set, in order.

    Args:
        model: In evaluation mode, on the batches' device.
        batches: Each of images of one padded size.
        exit_depths: Ascending, in encoder layers run.
        score: Scores the prediction of one image against its truth; its ``counts`` are kept.

    Raises:
        DataError: A ground truth contradicts itself, or a file cannot be read; the message names it.
    """
    waiting: _Pending | None = None
    with Background(threads) as pool:
        for batch in batches:
            outputs = _run_network(model, batch, exit_depths)
            if not batch.images.images.is_cuda:
                with _one_torch_thread():
                    rows = _Pending.start(outputs, score, pool).rows()
                yield rows
                continue
            former, waiting = waiting, _Pending.start(outputs, score, pool)
            if former is not None:
                yield former.rows()
        if waiting is not None:
            yield waiting.rows()


@torch.no_grad()
def _run_network(model: ExitModel, batch: LabelledBatch, exit_depths: tuple[int, ...]) -> _Outputs:
    features = model.extract(batch.images.images, batch.images.image_sizes)
    pooled = pool_features(features, list(batch.images.image_sizes))
    exits = list(predict_exits(model, features, batch.images, exit_depths))
    return _Outputs(batch, {name: values.half().cpu().numpy() for name, values in pooled.items()}, exits)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Let every thread of the pool compute by itself; the setting is the whole process's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
