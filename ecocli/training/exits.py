"""Which exits a step trains, and with which weights.

Source: ECO-M2F (arXiv 2404.15244), weighted stochastic depth: the loss is the sum over exits of alpha_k times the
Mask2Former loss at exit k (Eq. 3). With n of E exits drawn per step, each drawn exit's weight is multiplied
by E / n: every exit is drawn with probability n / E, so the expected loss is that of Eq. 3. (The authors' release
draws one and leaves the factor out, which Adam and the gradient clipping mostly undo.) The deepest exit can be kept in
every step, as in the sandwich rule of slimmable networks (arXiv 1903.05134): it then keeps its alpha, and the draw
among the others is corrected alike, so that the expected loss is still that of Eq. 3.

The paper starts from a model trained at full depth. Here the first steps may do that training (``deepest_first``): such
a step is plain Mask2Former's at the deepest exit, with weight 1, as for a model that has no other exit.
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
    exit_depths: Sequence[int],
    exit_weights: Sequence[float],
    exits_in_step: int,
    seed: int,
    step: int,
    keep_deepest: bool = False,
    deepest_alone: bool = False,
) -> StepExits:
    """Choose the exits of a step; the same on every process and after every resume.

    Args:
        exit_depths: All exits, ascending.
        exits_in_step: How many to train; drawn without replacement.
        keep_deepest: Whether the deepest exit is always one of them.
        deepest_alone: Whether this step is one of the first, which train the deepest exit alone.
    """
    if deepest_alone:
        return StepExits((exit_depths[-1],), (1.0,))
    if exits_in_step == len(exit_depths):
        return StepExits(tuple(exit_depths), tuple(exit_weights))
    drawable = len(exit_depths) - keep_deepest
    draws = exits_in_step - keep_deepest
    drawn = sorted(numpy_generator("exits", seed, step).permutation(drawable)[:draws].tolist())
    depths = [exit_depths[i] for i in drawn]
    weights = [exit_weights[i] * drawable / draws for i in drawn]
    if keep_deepest:
        depths.append(exit_depths[-1])
        weights.append(exit_weights[-1])
    return StepExits(tuple(depths), tuple(weights))
