"""The order of training images: an endless stream, shuffled anew each epoch, dealt out to the ranks.

The stream is one sequence for the whole run, whatever the number of processes: position p is image
``permutation(epoch)[p mod N]`` of epoch ``p div N``, and rank r of R takes the positions r, r + R, r + 2 R and so on.
So a run resumes at any position, and the union of all ranks' batches does not depend on their number.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ecocli.runtime.seeds import numpy_generator


class ShuffledStream(Sampler[tuple[int, int]]):
    """Endless sampler of (epoch, image index), the keys of ``TrainingDataset``."""

    def __init__(self, num_images: int, seed: int, *, rank: int = 0, world_size: int = 1, start: int = 0) -> None:
        """Create the stream.

        Args:
            start: Position to begin at: the number of images all ranks together have used, a multiple of
                ``world_size``.

        Raises:
            ValueError: A number is out of range.
        """
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}, expected at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, expected 0 to world_size - 1 = {world_size - 1}")
        if start < 0 or start % world_size:
            raise ValueError(f"start is {start}, expected a multiple of world_size = {world_size}")
        self.num_images = num_images
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """Give the order of the images in an epoch."""
        return numpy_generator("shuffle", self.seed, epoch).permutation(self.num_images)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield keys without end; every call begins at ``start`` again."""
        epoch = -1
        order: NDArray[np.int64] = np.empty(0, np.int64)
        position = self.start + self.rank
        while True:
            if position // self.num_images != epoch:
                epoch = position // self.num_images
                order = self.permutation(epoch)
            yield epoch, int(order[position % self.num_images])
            position += self.world_size
