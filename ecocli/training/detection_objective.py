"""DETR's set loss as a training step asks for it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ecocli.config.train_parent import MatchingName, SetLossConfig
from ecocli.data.box_training import BoxSample
from ecocli.losses.boxes import pack_boxes
from ecocli.losses.set_criterion import SetCriterion
from ecocli.training.objective import StepLoss, matched_by


class DetectionObjective:
    """Class, L1 and GIoU terms of matched boxes; nothing is drawn."""

    terms: tuple[str, ...] = ("class", "box", "giou")

    def __init__(self, config: SetLossConfig, num_classes: int) -> None:
        """Read the settings."""
        settings = config.model_dump()
        self._matching: MatchingName = settings.pop("matching")
        self._criterion = SetCriterion(num_classes=num_classes, **settings)

    def class_weight_sum(self, counts: Sequence[int], num_queries: int) -> float:
        """Return the class term's normaliser of images with so many objects each."""
        return self._criterion.class_weight_sum(counts, num_queries)

    def __call__(
        self,
        logits: Float[Tensor, "P B Q K1"],
        regions: Float[Tensor, "P B Q 4"],
        samples: Sequence[BoxSample],
        padded_size: tuple[int, int],
        exit_weights: Sequence[float],
        seeds: Sequence[int],
        num_objects: float,
        class_weight_sum: float,
    ) -> StepLoss:
        """Compute the losses of a batch; see ``Objective``."""
        targets = pack_boxes([s.labels for s in samples], [s.boxes for s in samples]).to(logits.device)
        out = self._criterion(
            logits,
            regions,
            targets,
            torch.tensor(exit_weights).repeat_interleave(len(logits) // len(exit_weights)),
            num_boxes=num_objects,
            class_weight_sum=class_weight_sum,
            matched_by=matched_by(self._matching, len(logits), len(exit_weights)),
        )
        return StepLoss(out.total, out.prediction_losses.sum(dim=1), out.terms, out.image_losses)
