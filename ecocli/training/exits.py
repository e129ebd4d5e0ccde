"""Which exits a step trains, and with which weights.

Source: ECO-M2F (arXiv 2404.15244), weighted stochastic depth: the loss is the sum over exits of alpha_k times the
Mask2Former loss at exit k (Eq. 3). With n of E exits drawn per step, each drawn exit's weight is multiplied
by E / n: every exit is drawn with probability n / E, so the expected loss is that of Eq. 3. (The authors' release
draws one and leaves the factor out, which Adam and the gradient clipping mostly undo.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ecocli.runtime.seeds import numpy_generator


@dataclass(frozen=True)
class StepExits:
    """The exits of one step.

    Attributes:
        depths: Encoder layers run, ascending.
        weights: Weight of each exit's loss in the total.
    """

    depths: tuple[int, ...]
    weights: tuple[float, ...]


def choose_exits(
    exit_depths: Sequence[int], exit_weights: Sequence[float], exits_in_step: int, seed: int, step: int
) -> StepExits:
    """Choose the exits of a step; the same on every process and after every resume.

    Args:
        exit_depths: All exits, ascending.
        exit_weights: Alpha of each.
        exits_in_step: How many to draw without replacement.
        seed: Seed of the run.
        step: Number of the step.
    """
    count = len(exit_depths)
    if exits_in_step == count:
        return StepExits(tuple(exit_depths), tuple(exit_weights))
    drawn = sorted(numpy_generator("exits", seed, step).permutation(count)[:exits_in_step].tolist())
    factor = count / exits_in_step
    return StepExits(tuple(exit_depths[i] for i in drawn), tuple(factor * exit_weights[i] for i in drawn))
