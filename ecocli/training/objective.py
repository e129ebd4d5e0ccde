"""The losses of matched queries as a training step asks for them, by the settings that are theirs.

Axes: P predictions (exits x supervised predictions), B images, Q queries, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ecocli.config.base import Config
from ecocli.config.train_parent import AnyLoss, LossConfig, MaskLossConfig, MatchingName, SetLossConfig
from ecocli.losses.boxes import pack_boxes
from ecocli.losses.criterion import Criterion
from ecocli.losses.mask_criterion import MaskCriterion
from ecocli.losses.matched import MatchedCriterion
from ecocli.losses.points import SeededPoints
from ecocli.losses.set_criterion import SetCriterion
from ecocli.losses.targets import pack_targets


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


class Objective:
    """Terms of queries matched to objects; what a criterion needs besides is prepared for every batch."""

    def __init__(
        self,
        criterion: MatchedCriterion,
        matching: MatchingName,
        targets_of: Callable[[Sequence[Any], tuple[int, int]], Any],
    ) -> None:
        """Take a criterion.

        Args:
            matching: Whose matching an exit is trained with.
            targets_of: Packs the targets of samples for a padded size.
        """
        self._criterion, self._matching, self._targets_of = criterion, matching, targets_of
        self.terms: tuple[str, ...] = criterion.terms

    def class_weight_sum(self, counts: Sequence[int], num_queries: int) -> float:
        """Return the class term's normaliser of images with so many objects each."""
        return self._criterion.class_weight_sum(counts, num_queries)

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
        criterion = self._criterion
        out = criterion(
            logits,
            regions,
            self._targets_of(samples, padded_size).to(logits.device),
            torch.tensor(exit_weights).repeat_interleave(len(logits) // len(exit_weights)),
            SeededPoints(seeds, logits.device),
            num_objects,
            class_weight_sum,
            _matched_by(self._matching, len(logits), len(exit_weights)),
        )
        weighted = sum(
            (weight * term for weight, term in zip(criterion.weights, out.terms.values(), strict=True)),
            0.0 * out.terms[self.terms[0]],
        )
        return StepLoss(out.total, weighted, out.terms, out.image_losses)


def _matched_by(matching: MatchingName, predictions: int, exits: int) -> list[int] | None:
    """Say whose matching each prediction is trained with: its own (None), or that of the deepest exit's same layer."""
    per_exit = predictions // exits
    # The deepest exit's predictions come last.
    return [predictions - per_exit + p % per_exit for p in range(predictions)] if matching == "deepest" else None


def _masks(samples: Sequence[Any], padded_size: tuple[int, int]) -> Any:
    return pack_targets([s.labels for s in samples], [s.masks for s in samples], padded_size)


def _boxes(samples: Sequence[Any], _padded_size: tuple[int, int]) -> Any:
    return pack_boxes([s.labels for s in samples], [s.boxes for s in samples])


_CRITERIA: Mapping[type[Config], tuple[type[MatchedCriterion], Callable[[Sequence[Any], tuple[int, int]], Any]]] = {
    LossConfig: (Criterion, _masks),
    SetLossConfig: (SetCriterion, _boxes),
    MaskLossConfig: (MaskCriterion, _masks),
}


def make_objective(config: AnyLoss, num_classes: int) -> Objective:
    """Build the loss that the settings are of."""
    settings, (kind, targets_of) = config.model_dump(), _CRITERIA[type(config)]
    matching = settings.pop("matching")
    return Objective(kind(num_classes=num_classes, **settings), matching, targets_of)
