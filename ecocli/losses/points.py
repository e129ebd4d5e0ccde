"""Points in masks: bilinear sampling, random draws, and the choice of the most uncertain ones.

Axes: N masks, C channels, H W pixels, M points, P predictions (exits x decoder layers), B images,
G objects of the batch, S draws (P, or 1 if all predictions share them). A point is (x, y) in [0, 1]
from the upper left corner of the mask to the lower right one.

Source: PointRend (arXiv 1912.08193) as used by Mask2Former (arXiv 2112.01527). There every prediction
draws points of its own. Here the random draws come from a ``PointSource``; the seeded one draws once
per image and lets all predictions share them. Each prediction's points still follow the original's
law, and the total loss is a sum over predictions, so its expectation is the same; drawing and sampling
the targets for the matching costs once instead of P times. The draws of an image depend on its seed
alone, not on its batch mates, the rank or the accumulation.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class PointSource(Protocol):
    """Where the losses get their random points from."""

    def matching_points(self, num_predictions: int, num_points: int) -> Float[Tensor, "S B {num_points} 2"]:
        """Draw the points on which predictions and objects are compared for the matching."""
        ...

    def object_points(
        self, num_predictions: int, counts: Sequence[int], num_points: int
    ) -> Float[Tensor, "S G {num_points} 2"]:
        """Draw points for every object; called for the candidates, then for the purely random ones."""
        ...


class SeededPoints:
    """Uniform points from one generator per image, shared by all predictions."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        """Seed one generator per image.

        Args:
            device: Where the points are drawn; draws differ between kinds of devices.
        """
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def matching_points(self, num_predictions: int, num_points: int) -> Float[Tensor, "1 B {num_points} 2"]:
        """Draw points for each image."""
        del num_predictions
        return torch.stack(
            [torch.rand(num_points, 2, generator=generator, device=generator.device) for generator in self._generators]
        )[None]

    def object_points(
        self, num_predictions: int, counts: Sequence[int], num_points: int
    ) -> Float[Tensor, "1 G {num_points} 2"]:
        """Draw points for each object of each image."""
        del num_predictions
        return torch.cat(
            [
                torch.rand(count, num_points, 2, generator=generator, device=generator.device)
                for generator, count in zip(self._generators, counts, strict=True)
            ]
        )[None]


def sample_points(masks: Float[Tensor, "N C H W"], points: Float[Tensor, "N M 2"]) -> Float[Tensor, "N C M"]:
    """Read masks at points by bilinear interpolation between pixel centres, zero outside."""
    grid = 2.0 * points[:, :, None] - 1.0
    return F.grid_sample(masks, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[..., 0]


def choose_uncertain_points(
    logits: Float[Tensor, "N H W"],
    candidates: Float[Tensor, "N M 2"],
    num_points: int,
) -> Float[Tensor, "N {num_points} 2"]:
    """Keep the candidate points whose logit is nearest to 0, where the mask is least certain.

    Args:
        logits: One mask each.
        candidates: Points to choose from, at least ``num_points``.
    """
    certainty = sample_points(logits[:, None], candidates)[:, 0].abs()
    chosen = certainty.topk(num_points, dim=1, largest=False, sorted=False).indices
    return candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
