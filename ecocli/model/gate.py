"""Exit gate: pooled features of an image to a score per exit, and from there to an exit depth.

Shapes: B images, C channels, E exits.
Source: ECO-M2F, arXiv 2404.15244, section 3.3. Differences: each image of a batch gets its own exit, padding is left
out of the pooling, and pooled features pass through float16, the type of the derived table, so that a gate decides on
a stored row as it decides on the image.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ecocli.model.contracts import SharedFeatures

FeatureName = Literal["res5", "projected"]


def pool_features(
    features: SharedFeatures, image_sizes: Sequence[tuple[int, int]]
) -> dict[FeatureName, Float[Tensor, "B _c"]]:
    """Average the lowest-resolution map over each image's own cells.

    Args:
        features: Shared features of the batch.
        image_sizes: Height and width of each image before padding, in pixels of the network's input.

    Returns:
        ``res5``: the backbone's map (the paper's s1); ``projected``: the projected tokens of the same level.
    """
    height, width = features.shapes[0]
    projected = features.tokens[:, : height * width].transpose(1, 2)
    projected = projected.reshape(*projected.shape[:2], height, width)
    maps: dict[FeatureName, Tensor] = {"res5": features.maps["res5"], "projected": projected}
    stride, padding = features.stride, features.padding_mask

    def pool(level: Tensor) -> Tensor:
        if padding is not None:
            own = (~padding).view(-1, 1, height, width)
            mean: Tensor = (level.float() * own).sum(dim=(2, 3)) / own.sum(dim=(2, 3))
            return mean.half().float()
        rows = []
        for row, (image_height, image_width) in zip(level, image_sizes, strict=True):
            # A cell belongs to the image when any of its pixels does.
            cells = row[:, : -(-image_height // stride), : -(-image_width // stride)]
            rows.append(cells.float().mean(dim=(1, 2)))
        return torch.stack(rows).half().float()

    return {name: pool(level) for name, level in maps.items()}


class Gate(nn.Module):
    """One linear layer from pooled features to exits.

    Args:
        features: C.
        exits: E.
    """

    def __init__(self, features: int, exits: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, exits)

    def forward(self, pooled: Float[Tensor, "B C"]) -> Float[Tensor, "B E"]:
        """Unnormalised score of every exit."""
        logits: Tensor = self.linear(pooled)
        return logits


def select_exit_depth(gate_logits: Float[Tensor, "B E"], exit_depths: Int[Tensor, " E"]) -> Int[Tensor, " B"]:
    """Choose the exit depth of each image.

    Args:
        gate_logits: One unnormalised score per exit.
        exit_depths: Ascending depths, in encoder layers run: a count from 1, not an index.

    Returns:
        The depth of each image, in encoder layers run.
    """
    # argmax keeps the first of equal scores, so a tie takes the cheaper exit.
    return exit_depths[gate_logits.argmax(dim=-1)]
