"""Which images of an evaluation are worth a look.

Axes: N images, E exits. The choice follows from the numbers alone: images that need depth, images that do not, the
gate's worst decision, a typical one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

DEEP = "more layers help"
SHALLOW = "few layers are enough"
REGRET = "the gate is farthest from the best exit"
REVERSE = "more layers hurt"
TYPICAL = "a typical image"


@dataclass(frozen=True)
class Example:
    """One image to show.

    Attributes:
        position: Where it stands in the data set.
    """

    position: int
    reason: str


def pick_examples(
    quality: Float64[np.ndarray, "N E"], gate_quality: Float64[np.ndarray, " N"] | None, count: int
) -> list[Example]:
    """Pick images, none twice, the most telling kinds first.

    Args:
        quality: PQ of each image at each exit; NaN where undefined, such images are never shown.
        gate_quality: PQ of each image at the gate's exit; None without a gate.
        count: How many images at most.
    """
    defined = np.isfinite(quality).all(axis=1)
    gain = np.where(defined, quality[:, -1] - quality[:, 0], np.nan)
    level = np.where(defined, quality.mean(axis=1), np.nan)
    spread = np.where(defined, quality.max(axis=1) - quality.min(axis=1), np.nan)
    middle = np.nanmedian(level) if defined.any() else np.nan
    # Larger is more telling.
    kinds = [
        (DEEP, gain),
        (SHALLOW, level - 4 * spread),
        (REVERSE, -gain)
        if gate_quality is None
        else (REGRET, np.where(defined, quality.max(axis=1), 0) - gate_quality),
        (TYPICAL, -np.abs(level - middle) + 0.1 * np.abs(gain)),
    ]
    chosen: list[Example] = []
    taken = ~defined
    turn = 0
    while len(chosen) < count and not taken.all():
        reason, score = kinds[turn % len(kinds)]
        turn += 1
        order = np.argsort(-np.where(taken | ~np.isfinite(score), -np.inf, score), kind="stable")
        best = int(order[0])
        if taken[best]:
            continue
        taken[best] = True
        chosen.append(Example(best, reason))
    return sorted(chosen, key=lambda example: [reason for reason, _ in kinds].index(example.reason))
