"""Which encoder layers each exit runs, and what a gate among exits costs: the one place that knows.

An exit of depth k runs the first k layers and then a fixed tail, which may be empty. Depths count layers from 1; layer
indices count from 0. Source: ECO-M2F (arXiv 2404.15244, section 3); the tail is Lite-M2F's last layer, which follows
every exit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ExitPlan:
    """The exits of an encoder.

    Attributes:
        depths: The exits it can be left at, ascending.
        tail: Indices of the layers that follow every exit.
    """

    layers: int
    depths: tuple[int, ...]
    tail: tuple[int, ...] = ()

    @property
    def deepest(self) -> int:
        """The deepest exit."""
        return self.depths[-1]

    def layers_of(self, depth: int) -> tuple[int, ...]:
        """Indices of the layers that an exit runs, in order."""
        self.check((depth,))
        return (*range(depth), *self.tail)

    def idle(self, depths: Iterable[int]) -> tuple[int, ...]:
        """Indices of the layers that none of these exits runs."""
        used = {index for depth in depths for index in self.layers_of(depth)}
        return tuple(index for index in range(self.layers) if index not in used)

    def renumber(self, depth: int) -> dict[int, int]:
        """New index of every layer that stays in a model cut at an exit, by its old one."""
        return {old: new for new, old in enumerate(self.layers_of(depth))}

    def default_depths(self) -> tuple[int, ...]:
        """The exits that a training has unless told otherwise: from 2 on, as in the paper, where there are as many."""
        return tuple(depth for depth in self.depths if depth >= 2) or self.depths

    def check(self, depths: Sequence[int]) -> None:
        """Make sure that these are exits.

        Raises:
            ValueError: There is none, or one of them is no exit.
        """
        if not depths or any(depth not in self.depths for depth in depths):
            listed = ", ".join(map(str, self.depths))
            raise ValueError(
                f"exit depths {list(depths)} asked of an encoder with {self.layers} layers, which can be left after "
                f"{listed}; give at least one depth, each one of these"
            )


def gate_gflops(features: int, exits: int) -> float:
    """What a gate, one linear layer from the features to a score per exit, costs per image."""
    return features * exits / 1e9
