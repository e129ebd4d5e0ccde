"""The ground truth of a batch, padded to one tensor.

Axes: B images, T objects of the fullest image (padding included), G objects of the whole batch (none
padded, image after image), H W pixels of the padded input.

Source: Mask2Former (arXiv 2112.01527) keeps one list entry per image. Here the objects of a batch stand
in one padded tensor, so that the losses need no loop over images; ``counts`` says which are real.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class PackedTargets:
    """The objects of every image of a batch.

    Attributes:
        labels: Class index of each object; 0 where padded.
        masks: True where the object is; all False where padded.
        counts: Number of real objects of each image; they come first along axis T.
    """

    labels: Int[Tensor, "B T"]
    masks: Bool[Tensor, "B T H W"]
    counts: tuple[int, ...]

    def to(self, device: torch.device | str) -> "PackedTargets":
        """Return the same targets on a device."""
        return PackedTargets(
            labels=self.labels.to(device, non_blocking=True),
            masks=self.masks.to(device, non_blocking=True),
            counts=self.counts,
        )


def pack_targets(
    labels: Sequence[Int[Tensor, " _"]],
    masks: Sequence[Bool[Tensor, "_ _ _"]],
    size: tuple[int, int],
) -> PackedTargets:
    """Pad the objects of each image to one tensor; images are padded on the right and below.

    Args:
        labels: Per image, the class index of each object; may be empty.
        masks: Per image, the mask of each object.
        size: Height and width of the padded input batch, at least those of every mask.

    Raises:
        ValueError: If labels and masks disagree, or a mask is larger than ``size``.
    """
    if len(labels) != len(masks) or not labels:
        raise ValueError(f"found labels of {len(labels)} images and masks of {len(masks)}, expected one each")
    height, width = size
    counts = tuple(len(image_labels) for image_labels in labels)
    depth = max(1, *counts)  # an axis of length 0 is more than some operators take
    packed_labels = torch.zeros(len(labels), depth, dtype=torch.int64)
    packed_masks = torch.zeros(len(labels), depth, height, width, dtype=torch.bool)
    for index, (image_labels, image_masks) in enumerate(zip(labels, masks, strict=True)):
        if len(image_labels) != len(image_masks):
            raise ValueError(f"image {index} has {len(image_labels)} labels but {len(image_masks)} masks")
        mask_height, mask_width = image_masks.shape[-2:]
        if mask_height > height or mask_width > width:
            raise ValueError(
                f"image {index} has masks of {mask_height} x {mask_width}, larger than the batch's {height} x {width}"
            )
        packed_labels[index, : counts[index]] = image_labels
        packed_masks[index, : counts[index], :mask_height, :mask_width] = image_masks
    return PackedTargets(labels=packed_labels, masks=packed_masks, counts=counts)
