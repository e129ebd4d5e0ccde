"""Quality of every exit in the course of a training: on which weights, and where the numbers go.

What scores a set of weights comes from outside (``ecocli.scoring.subset_evaluator``), since training does not know
how predictions are made. It works on a model of its own, so the one that is trained stays as it is: its mode, its
weights, its batch norm statistics. Random numbers need no care: every step seeds itself.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ecocli.runtime.distributed import World
from ecocli.training.metrics_log import nest_values
from ecocli.training.state import TrainingState
from ecocli.training.trackers import Tracker

Qualities = Mapping[str, float | None]
"""What a task measures by name, as fractions, None where undefined; first what gates are judged by."""


@runtime_checkable
class ExitEvaluator(Protocol):
    """Scores weights at every exit, on images it knows."""

    @property
    def num_images(self) -> int:
        """Number of images."""

    def __call__(self, weights: Mapping[str, Tensor]) -> Mapping[int, Qualities] | None:
        """Score a state dict; all processes call this together and get the same.

        Returns:
            Qualities by exit depth; None if a signal asked to stop.

        Raises:
            DataError: A file of the data set is missing or faulty.
        """


class PeriodicEvaluation:
    """The evaluations of one run.

    Attributes:
        seconds: Time that all of them took.
    """

    def __init__(
        self,
        evaluator: ExitEvaluator,
        model: nn.Module,
        state: TrainingState,
        world: World,
        *,
        split: str,
        log: logging.Logger,
    ) -> None:
        """Prepare.

        Args:
            state: Its state, whose log takes the numbers.
            world: The processes; all of them evaluate together.
        """
        self.seconds = 0.0
        self._evaluator = evaluator
        self._model = model
        self._state = state
        self._world = world
        self._split = split
        self._log = log

    @property
    def is_done(self) -> bool:
        """Whether the exits were evaluated after the present step, perhaps before a kill; the same on all processes."""
        state = self._state
        return self._world.broadcast_object(self._world.is_main and state.metrics.holds_evaluation(state.step))

    def run(self, trackers: Sequence[Tracker]) -> bool:
        """Evaluate the weights that the artifact would hold now, and report them.

        Returns:
            False if a signal asked to stop; nothing is reported then.
        """
        start_s = time.monotonic()
        found = self._evaluator(self._weights())
        seconds = time.monotonic() - start_s
        self.seconds += seconds
        if found is None:
            return False
        if not self._world.is_main:
            return True
        step, images = self._state.step, self._evaluator.num_images
        values = name_qualities(found)
        line = nest_values(step, values)
        line["evaluation"] |= {"split": self._split, "images": images}
        self._state.record_evaluation(line)
        for tracker in trackers:
            tracker.write(step, values)
        self._log.info("step %d: %s (%.1f s)", step, describe_qualities(found, images), seconds)
        return True

    def _weights(self) -> dict[str, Tensor]:
        weights = self._state.weights()
        # Without synchronised norms each process has its own statistics; the artifact holds the main one's.
        names = [name for name, _ in self._model.named_buffers() if name in weights]
        if self._world.world_size == 1 or not names:
            return weights
        shared = self._world.broadcast_object({name: weights[name].cpu() for name in names})
        return {**weights, **{name: tensor.to(weights[name].device) for name, tensor in shared.items()}}


def name_qualities(found: Mapping[int, Qualities]) -> dict[str, float]:
    """Name each quality that is defined ``evaluation.exits.<depth>.<quality>``."""
    return {
        f"evaluation.exits.{depth}.{name}": value
        for depth, qualities in found.items()
        for name, value in qualities.items()
        if value is not None
    }


def describe_qualities(found: Mapping[int, Qualities], images: int) -> str:
    """Say the first quality of every exit, in points."""
    depths = " ".join(str(depth) for depth in found)
    first = [next(iter(qualities.items())) for qualities in found.values()]
    points = " ".join("-" if value is None else f"{100 * value:.1f}" for _, value in first)
    return f"{first[0][0].upper()} on {images} images at exits {depths}: {points}"
