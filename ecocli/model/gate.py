"""Exit gate: pooled features of an image to a score per exit, and from there to an exit depth.

Shapes: B images, C channels, E exits.
Source: ECO-M2F, arXiv 2404.15244, section 3.3. Differences: each image of a batch gets its own exit, padding is left
out of the pooling, and pooled features pass through float16, the type of the derived table, so that a gate decides on
a stored row as it decides on the image.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ecocli.config.fit_gate import FeatureName
from ecocli.model.contracts import SharedFeatures, Size

_CELLS_AT_ONCE = 1024
"""Cells whose sum and maximum are taken while they lie in the cache."""


def pool_features(
    features: SharedFeatures, image_sizes: Sequence[Size], names: Sequence[FeatureName] = ()
) -> dict[FeatureName, Float[Tensor, "B _c"]]:
    """Pool the backbone's coarsest map and the projected tokens over each image's own cells.

    Args:
        image_sizes: Height and width of each image before padding, in pixels of the network's input.
        names: Which features to pool; all, if left out.

    Returns:
        ``res5``: mean of the backbone's map (the paper's s1), [B, C5]; ``projected``: mean of the projected tokens of
        the same level, [B, C]; ``tokens``: mean and maximum of each level of the projected tokens, coarsest first,
        [B, 2 C levels]. Mean says how much of something an image shows, maximum whether it shows it anywhere.
    """

    def backbone(image: int, size: Size) -> Tensor:
        height, width = _own_cells(features, image, 0, size)
        return _mean_and_max(features.maps["res5"][image, :, :height, :width].permute(1, 2, 0))[0]

    def level(image: int, number: int, size: Size) -> tuple[Tensor, Tensor]:
        first = sum(height * width for height, width in features.shapes[:number])
        height, width = features.shapes[number]
        cells = features.tokens[image, first : first + height * width]
        own = _own_cells(features, image, number, size)
        if own == (height, width) and len(cells) <= _CELLS_AT_ONCE:
            return _block_mean_and_max(cells)
        return _mean_and_max(cells.reshape(height, width, -1)[: own[0], : own[1]])

    poolers: dict[FeatureName, Callable[[int, Size], Tensor]] = {
        "res5": backbone,
        "projected": lambda image, size: level(image, 0, size)[0],
        "tokens": lambda image, size: torch.cat(
            [pooled for number in range(len(features.shapes)) for pooled in level(image, number, size)]
        ),
    }
    return {
        name: torch.stack([poolers[name](image, size) for image, size in enumerate(image_sizes)]).half().float()
        for name in names or poolers
    }


def _own_cells(features: SharedFeatures, image: int, level: int, size: Size) -> Size:
    """Height and width of the part of a level that is no padding, in cells."""
    if features.padding_mask is not None:
        own = ~features.padding_mask[image].view(features.shapes[level])
        return int(own.any(dim=1).sum()), int(own.any(dim=0).sum())
    # A cell belongs to the image when any of its pixels does.
    stride = features.stride * features.shapes[0][0] // features.shapes[level][0]
    return -(-size[0] // stride), -(-size[1] // stride)


def _mean_and_max(cells: Float[Tensor, "h w C"]) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Mean and maximum over all cells, in one pass over them."""
    rows = max(1, _CELLS_AT_ONCE // cells.shape[1])
    if cells.shape[0] <= rows:
        return _block_mean_and_max(cells.reshape(-1, cells.shape[2]))
    # Laid out without the padding between rows: fast, and the sums' order is that of the image alone.
    blocks = (block.reshape(-1, cells.shape[2]).float() for block in torch.split(cells, rows))
    sums, maxima = zip(*((block.sum(dim=0), block.amax(dim=0)) for block in blocks), strict=True)
    return torch.stack(sums).sum(dim=0) / (cells.shape[0] * cells.shape[1]), torch.stack(maxima).amax(dim=0)


def _block_mean_and_max(cells: Float[Tensor, "n C"]) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    cells = cells.float()
    return cells.sum(dim=0) / cells.shape[0], cells.amax(dim=0)


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
