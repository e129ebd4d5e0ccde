"""Random numbers that depend on what they are for, and on nothing else.

A seed is derived from names and numbers, such as ``("augment", seed, epoch, image_index)``. So a resumed run,
another number of workers or another order of work draws the same numbers.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch


def derive_seed(*parts: int | str) -> int:
    """Hash the parts into a seed of 63 bits, the same on every machine and in every version.

    Each part enters with its type and length, so that ``("ab", "c")``, ``("a", "bc")``, ``("1",)`` and
    ``(1,)`` differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode()
        digest.update(f"{'s' if isinstance(part, str) else 'i'}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def torch_generator(*parts: int | str) -> torch.Generator:
    """Make a CPU generator seeded by the parts."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*parts))


def numpy_generator(*parts: int | str) -> numpy.random.Generator:
    """Make a NumPy generator seeded by the parts."""
    import numpy

    return numpy.random.default_rng(derive_seed(*parts))


def seed_everything(*parts: int | str) -> None:
    """Seed the global generators of Python, NumPy and torch, for code that takes no generator.

    Weight initialisation is such code: call this directly before it.
    """
    import numpy
    import torch

    seed = derive_seed(*parts)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
