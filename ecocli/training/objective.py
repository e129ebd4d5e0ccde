"""What a training step asks of its task: targets of images, and the loss of predictions against them.

Axes: P predictions (exits x supervised predictions), B images, Q queries, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ecocli.config.train_parent import MatchingName


@dataclass(frozen=True)
class StepLoss:
    """The losses of a batch.

    Attributes:
        total: Weighted sum over predictions and terms; the only part with a gradient.
        prediction_losses: Weighted sum of the terms of each prediction, without the weight of its exit.
        terms: Unweighted terms of each prediction by name, in the order of ``Objective.terms``.
        image_losses: Each image's share of ``total``; not finite where the image's prediction is not.
    """

    total: Float[Tensor, ""]
    prediction_losses: Float[Tensor, " P"]
    terms: dict[str, Float[Tensor, " P"]]
    image_losses: Float[Tensor, " B"]


@runtime_checkable
class Objective(Protocol):
    """The loss of a task.

    Attributes:
        terms: Names of its terms.
    """

    terms: tuple[str, ...]

    def class_weight_sum(self, counts: Sequence[int], num_queries: int) -> float:
        """Return the class term's normaliser of images with so many objects each."""

    def __call__(
        self,
        logits: Float[Tensor, "P B Q K1"],
        regions: Float[Tensor, "P B Q *region"],
        samples: Sequence[Any],
        padded_size: tuple[int, int],
        exit_weights: Sequence[float],
        seeds: Sequence[int],
        num_objects: float,
        class_weight_sum: float,
    ) -> StepLoss:
        """Compute the losses of a batch.

        Args:
            logits: Class logits, "no object" last.
            regions: Mask logits or boxes.
            padded_size: Height and width of the network's input.
            exit_weights: Alpha of each exit; the predictions of the first exit come first.
            seeds: Seed of each image, for losses that draw.
            num_objects: Objects in the whole step, over all ranks and accumulated parts.
            class_weight_sum: Class normaliser of the whole step.
        """


def matched_by(matching: MatchingName, predictions: int, exits: int) -> list[int] | None:
    """Say whose matching each prediction is trained with: its own (None), or that of the deepest exit's same layer."""
    per_exit = predictions // exits
    # The deepest exit's predictions come last.
    return [predictions - per_exit + p % per_exit for p in range(predictions)] if matching == "deepest" else None
