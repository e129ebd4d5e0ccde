"""A stack of encoder layers that can be left at its exits, and left by each image of a batch at its own.

Shapes: B images, N tokens, C channels. Source: ECO-M2F (arXiv 2404.15244); unlike its release, the images of one batch
take different exits. Which layers an exit runs is the business of ``ecocli.exits``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ecocli.exits import ExitPlan
from ecocli.model.sampling import SpatialShapes

RunLayer = Callable[[int, Tensor, Sequence[int]], Tensor]
"""Layer index, tokens [images, N, C] and the position of each of these images in the batch, to tokens."""


def run_exits(
    plan: ExitPlan, run: RunLayer, tokens: Float[Tensor, "B N C"], exit_depths: Sequence[int]
) -> tuple[Float[Tensor, "B N C"], ...]:
    """Tokens at each wanted exit, in the order asked; layers up to the deepest run once, the tail once per exit.

    Raises:
        ValueError: If one of them is no exit.
    """
    plan.check(exit_depths)
    images = range(len(tokens))
    after: dict[int, Tensor] = {}
    for depth in range(1, max(exit_depths) + 1):
        tokens = run(depth - 1, tokens, images)
        if depth in exit_depths:
            done = tokens
            for index in plan.tail:
                done = run(index, done, images)
            after[depth] = done
    return tuple(after[depth] for depth in exit_depths)


def run_each(
    plan: ExitPlan, run: RunLayer, tokens: Float[Tensor, "B N C"], depths: Int[Tensor, " B"]
) -> Float[Tensor, "B N C"]:
    """Each image's tokens at its own exit; an image leaves the batch as soon as it is done.

    Raises:
        ValueError: If one of them is no exit.
    """
    wanted = depths.tolist()
    plan.check(wanted)
    # Deepest images first, so that those still running are always a leading slice.
    order = sorted(range(len(wanted)), key=lambda image: -wanted[image])
    running = tokens[order]
    left = torch.empty_like(running)
    for depth in range(1, max(wanted) + 1):
        count = sum(depth <= wanted[image] for image in order)
        running = run(depth - 1, running[:count], order[:count])
        staying = sum(depth < wanted[image] for image in order)
        left[staying:count] = running[staying:]
    for index in plan.tail:
        left = run(index, left, order)
    done = torch.empty_like(left)
    done[order] = left
    return done


class ExitEncoder(nn.Module, ABC):
    """An encoder of a pixel decoder: tokens of all levels to new ones, in layers.

    Args:
        exits: Number of layers, and which of them each exit runs.
        layers: Built in order.

    Attributes:
        embeds_levels: Whether its positions add a learned vector per level.
    """

    embeds_levels: ClassVar[bool] = True

    def __init__(self, exits: ExitPlan, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.exits = exits
        self.layers = nn.ModuleList(layers)

    @abstractmethod
    def positions(
        self, shapes: SpatialShapes, level_embed: Float[Tensor, "L C"] | None
    ) -> Float[Tensor, "positioned C"]:
        """Position of every token that has one."""

    def runner(
        self, tokens: Float[Tensor, "B N C"], positions: Float[Tensor, "positioned C"], shapes: SpatialShapes
    ) -> RunLayer:
        """What runs a layer on tokens such as these."""

        def run(index: int, running: Tensor, _images: Sequence[int]) -> Tensor:
            after: Tensor = self.layers[index](running, positions, shapes)
            return after

        return run

    def forward(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "positioned C"],
        shapes: SpatialShapes,
        exit_depths: Sequence[int],
    ) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens at each wanted exit, in the order asked; layers up to the deepest run once.

        Raises:
            ValueError: If one of them is no exit.
        """
        return run_exits(self.exits, self.runner(tokens, positions, shapes), tokens, exit_depths)

    def forward_per_image(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "positioned C"],
        shapes: SpatialShapes,
        depths: Int[Tensor, " B"],
    ) -> Float[Tensor, "B N C"]:
        """Each image's tokens at its own exit; an image leaves the batch as soon as it is done."""
        return run_each(self.exits, self.runner(tokens, positions, shapes), tokens, depths)
