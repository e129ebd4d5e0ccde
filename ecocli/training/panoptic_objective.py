"""Mask2Former's loss as a training step asks for it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ecocli.config.train_parent import LossConfig, MatchingName
from ecocli.data.training import TrainingSample
from ecocli.losses.criterion import Criterion
from ecocli.losses.points import SeededPoints
from ecocli.losses.targets import pack_targets
from ecocli.training.objective import StepLoss, matched_by


class PanopticObjective:
    """Class, mask and dice terms on random points."""

    terms: tuple[str, ...] = ("class", "mask", "dice")

    def __init__(self, config: LossConfig, num_classes: int) -> None:
        """Read the settings."""
        settings = config.model_dump()
        self._matching: MatchingName = settings.pop("matching")
        self._criterion = Criterion(num_classes=num_classes, **settings)

    def class_weight_sum(self, counts: Sequence[int], num_queries: int) -> float:
        """Return the class term's normaliser of images with so many objects each."""
        return self._criterion.class_weight_sum(counts, num_queries)

    def __call__(
        self,
        logits: Float[Tensor, "P B Q K1"],
        regions: Float[Tensor, "P B Q h w"],
        samples: Sequence[TrainingSample],
        padded_size: tuple[int, int],
        exit_weights: Sequence[float],
        seeds: Sequence[int],
        num_objects: float,
        class_weight_sum: float,
    ) -> StepLoss:
        """Compute the losses of a batch; see ``Objective``."""
        targets = pack_targets([s.labels for s in samples], [s.masks for s in samples], padded_size).to(logits.device)
        criterion = self._criterion
        out = criterion(
            logits,
            regions,
            targets,
            torch.tensor(exit_weights).repeat_interleave(len(logits) // len(exit_weights)),
            SeededPoints(seeds, logits.device),
            num_masks=num_objects,
            class_weight_sum=class_weight_sum,
            matched_by=matched_by(self._matching, len(logits), len(exit_weights)),
        )
        terms = {"class": out.class_losses, "mask": out.mask_losses, "dice": out.dice_losses}
        weights = (criterion.class_weight, criterion.mask_weight, criterion.dice_weight)
        weighted = sum(
            (weight * term for weight, term in zip(weights, terms.values(), strict=True)), 0.0 * terms["class"]
        )
        return StepLoss(out.total, weighted, terms, out.image_losses)
