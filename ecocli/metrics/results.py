"""What gates and their controls ask of a data set's results, whatever its task measures.

Axes: N images, E exits, M mixtures, R replicates. Quality is that of the whole data set, a fraction
0..1; NaN where undefined.
"""

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True)
class AveragePrecisions:
    """Average precisions as fractions; None where the truth has no such object, or the rules no such value.

    Attributes:
        ap: Mean over IoU thresholds 0.5 to 0.95 and over classes.
        ap_small: Objects below 32 x 32 pixels.
        ap_medium: Those up to 96 x 96.
        ap_large: Those above.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None


@runtime_checkable
class ResultTable(Protocol):
    """Results of every image at every exit, from which the quality of any choice of exits follows."""

    @property
    def num_images(self) -> int:
        """N."""

    @property
    def num_exits(self) -> int:
        """E."""

    def assignment_quality(self, assignment: Int64[np.ndarray, " N"]) -> float:
        """Quality, exactly, with each image at its own exit (an index from 0)."""

    def mixture_quality(self, mixture: Float64[np.ndarray, " E"]) -> float:
        """Quality at the expected results of a mixture that ignores the image."""

    def replicates(
        self, weights: Float64[np.ndarray, "M N E"], replicates: int, seed: int
    ) -> Float64[np.ndarray, "R M"]:
        """Quality of M mixtures on images resampled with replacement, the same ones for all mixtures."""

    def contributions(self) -> Float64[np.ndarray, "N E"]:
        """What each image's exit does to the quality, to first order and times N; zero is no image at all."""

    def contents(self) -> Float64[np.ndarray, "N K"]:
        """True objects of each class in each image."""

    def fixed_assignment(self, exit_index: int) -> Int64[np.ndarray, " N"]:
        """Every image at one exit."""

    def first_exits(self, number: int) -> Self:
        """Leave out all exits but the first ones."""

    def select(self, images: Int64[np.ndarray, " S"]) -> Self:
        """The results of some images, in ascending order."""
