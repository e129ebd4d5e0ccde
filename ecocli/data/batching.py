"""Batches of images: normalised, padded on the right and below to a common size.

Axes: B images, H W pixels. As in Mask2Former, padding is 0 after normalisation, i.e. the mean colour, and the common
size is the largest of the batch, rounded up to the network's divisor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor


@runtime_checkable
class Sample(Protocol):
    """One training image with its targets."""

    @property
    def image(self) -> UInt8[Tensor, "3 H W"]:
        """RGB image, not normalised."""

    @property
    def labels(self) -> Int64[Tensor, " T"]:
        """Class index of every object."""

    @property
    def image_id(self) -> str:
        """Id of the image."""


@dataclass(frozen=True)
class ImageBatch:
    """Images ready for the network.

    Attributes:
        images: Normalised images, 0 where padded.
        image_sizes: Height and width of every image within the padded tensor.
        original_sizes: Height and width of every image before the test-time resize.
    """

    images: Float[Tensor, "B 3 H W"]
    image_sizes: tuple[tuple[int, int], ...]
    original_sizes: tuple[tuple[int, int], ...]
    image_ids: tuple[str, ...]


def make_batch(
    images: Sequence[NDArray[np.uint8]],
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    size_divisor: int = 32,
    *,
    original_sizes: Sequence[tuple[int, int]] | None = None,
    image_ids: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> ImageBatch:
    """Stack images of any sizes.

    Args:
        images: RGB images [H, W, 3], resized already.
        pixel_mean: Mean of each channel, in grey levels.
        pixel_std: Divisor of each channel, in grey levels.
        size_divisor: Height and width of the result are multiples of this.
        original_sizes: Sizes before the resize; the images' own by default.
        image_ids: Ids; the positions by default.
        device: Where the result shall lie; images travel as bytes.

    Raises:
        ValueError: There is no image.
    """
    tensors = [torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")) for image in images]
    return _stack(tensors, pixel_mean, pixel_std, size_divisor, original_sizes, image_ids, device)


def make_training_batch(
    samples: Sequence[Sample],
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    size_divisor: int = 32,
    *,
    device: torch.device | str = "cpu",
) -> ImageBatch:
    """Stack the images of training samples; arguments as for ``make_batch``.

    Raises:
        ValueError: There is no sample.
    """
    tensors = [sample.image for sample in samples]
    ids = [sample.image_id for sample in samples]
    return _stack(tensors, pixel_mean, pixel_std, size_divisor, None, ids, device)


def _stack(
    images: Sequence[UInt8[Tensor, "3 _ _"]],
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    size_divisor: int,
    original_sizes: Sequence[tuple[int, int]] | None,
    image_ids: Sequence[str] | None,
    device: torch.device | str,
) -> ImageBatch:
    if not images:
        raise ValueError("a batch needs at least one image, found none")
    sizes = tuple((int(image.shape[1]), int(image.shape[2])) for image in images)
    height, width = (-(-max(size[axis] for size in sizes) // size_divisor) * size_divisor for axis in (0, 1))
    mean = torch.tensor(tuple(pixel_mean), dtype=torch.float32, device=device).view(3, 1, 1)
    std = torch.tensor(tuple(pixel_std), dtype=torch.float32, device=device).view(3, 1, 1)
    if all(size == (height, width) for size in sizes):
        stacked = (torch.stack(tuple(images)).to(device, non_blocking=True).float() - mean) / std
    else:
        stacked = torch.zeros((len(images), 3, height, width), device=device)
        for slot, image, size in zip(stacked, images, sizes, strict=True):
            slot[:, : size[0], : size[1]] = (image.to(device, non_blocking=True).float() - mean) / std
    return ImageBatch(
        images=stacked,
        image_sizes=sizes,
        original_sizes=sizes if original_sizes is None else tuple(original_sizes),
        image_ids=tuple(str(i) for i in range(len(images))) if image_ids is None else tuple(image_ids),
    )
