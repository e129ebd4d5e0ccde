"""Quality of weights in training, at every exit, on some images of a split.

Axes: E exits. The images, their batches and the order of all sums follow from the data set and the settings alone, so
the numbers do not depend on the number of processes and are those of ``eco eval`` on the same images (in float32; the
network runs in the precision of the training).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import torch
from torch import Tensor

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.dataset import ResizeConfig
from ecocli.data.datasets import take
from ecocli.data.images import ImageDataset
from ecocli.errors import DataError, EcoError
from ecocli.inference.loading import restore_model
from ecocli.model.contracts import ExitModel
from ecocli.runtime.context import Runtime
from ecocli.runtime.interrupt import StopNowError
from ecocli.scoring.batches import TruthLoader, cut_batches, iterate_batches, plan_dataset
from ecocli.scoring.score_stream import Score, stream_rows


def spread_positions(total: int, wanted: int) -> tuple[int, ...]:
    """Choose positions spread evenly over ``range(total)``, the same ones every time.

    Args:
        wanted: How many to choose; all of them if there are not more.
    """
    count = min(total, wanted)
    return tuple((2 * index + 1) * total // (2 * count) for index in range(count))


class SubsetEvaluator:
    """Scores a state dict at every exit on the same images each time."""

    def __init__(
        self,
        dataset: ImageDataset,
        architecture: AnyArchitecture,
        exit_depths: tuple[int, ...],
        resize: ResizeConfig,
        runtime: Runtime,
        *,
        score: Score,
        load_truth: TruthLoader,
        qualities: Callable[[Sequence[Sequence[Any]]], Sequence[Mapping[str, float | None]]],
        images: int,
        batch_size: int,
        precision: str,
    ) -> None:
        """Choose the images.

        Args:
            architecture: Of the weights to come.
            exit_depths: Ascending, in encoder layers run.
            score: Scores the prediction of an image against its truth.
            qualities: From the results of images at their exits, in their order, to the qualities of each exit.
            precision: Number format of the forward pass, by torch's name.
        """
        self._dataset = take(dataset, spread_positions(len(dataset), images))
        planned = plan_dataset(self._dataset, resize, batch_size, architecture.size_divisor)
        # Cut beforehand: the processes count on getting as many batches as they planned.
        self._batches = tuple(cut_batches(planned, self._dataset, resize, runtime.device))
        self._architecture = architecture
        self._exit_depths = exit_depths
        self._resize = resize
        self._runtime = runtime
        self._dtype: torch.dtype = getattr(torch, precision)
        self._score, self._load_truth, self._qualities = score, load_truth, qualities

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self._dataset)

    def __call__(self, weights: Mapping[str, Tensor]) -> dict[int, Mapping[str, float | None]] | None:
        """Score weights; all processes call this together and get the same.

        Args:
            weights: State dict on the runtime's device. It is read where it lies, not copied and not changed.

        Returns:
            Qualities by exit depth; None if a signal asked to stop, which is looked for before every batch.

        Raises:
            DataError: A file of the data set is missing or faulty.
        """
        model = restore_model(self._architecture, weights, self._runtime.device, "in training")
        model.autocast_dtype = None if self._dtype == torch.float32 else self._dtype
        return self.score(model)

    def score(self, model: ExitModel) -> dict[int, Mapping[str, float | None]] | None:
        """Score a model on the runtime's device, as ``__call__`` does weights."""
        world, device = self._runtime.world, self._runtime.device
        own = self._batches[world.rank :: world.world_size]
        batches = iterate_batches(self._dataset, own, self._resize, model, device, self._load_truth)
        counts: dict[int, tuple[Any, ...]] = {}
        failure: EcoError | None = None
        with closing(stream_rows(model, batches, self._exit_depths, self._score, self._runtime.threads)) as rows:
            for _ in range(0, len(self._batches), world.world_size):
                if self._agree_to_stop(failure):
                    return None
                try:
                    with suppress(StopNowError), self._runtime.stop.interruptible():
                        counts |= {position: row.counts for position, row in next(rows, [])}
                except EcoError as error:
                    failure = error
        if self._agree_to_stop(failure):
            return None
        everyone: dict[int, tuple[Any, ...]] = {}
        for some in world.gather_objects(counts):
            everyone |= some
        in_order = [everyone[position] for position in sorted(everyone)]
        return dict(zip(self._exit_depths, self._qualities(in_order), strict=True))

    def _agree_to_stop(self, failure: EcoError | None) -> bool:
        """Ask all processes: does one want to stop, and did one fail?

        Raises:
            DataError: One of them failed; the others would wait for it in vain.
        """
        world = self._runtime.world
        failures, stops = world.sum_(torch.tensor([failure is not None, self._runtime.stop.requested]).int()).tolist()
        if failures:
            found = [text for text in world.gather_objects(None if failure is None else str(failure)) if text]
            raise DataError(" ".join(dict.fromkeys(found))) from failure
        return bool(stops)
