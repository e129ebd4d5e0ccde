"""Images kept out of Step A, so that Steps B and C see what an exit gains on an image that the parent does not know.

Whether an image is kept out hangs on its id alone: not on the order of the images, nor on which others there are. So
every stage knows it from the share, and a smaller share keeps out some of the images of a larger one.
"""

import hashlib
import math
from dataclasses import replace
from typing import TypeVar

from ecocli.data.images import ImageDataset
from ecocli.errors import DataError

_AnyDataset = TypeVar("_AnyDataset", bound=ImageDataset)


def is_held_out(image_id: str, share: float) -> bool:
    """Whether a share of the images kept out of the training has this one: the first 64 bits of its id's SHA-256."""
    first = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")
    return first < math.ldexp(share, 64)


def training_part(dataset: _AnyDataset, share: float) -> _AnyDataset:
    """Leave out the images that are kept out of the training.

    Raises:
        DataError: No image is left.
    """
    if share == 0.0:
        return dataset
    kept = [index for index, image_id in enumerate(dataset.records.image_ids) if not is_held_out(image_id, share)]
    if not kept:
        raise DataError(
            f"hold_out is {share:g} and leaves none of the {len(dataset)} images of {dataset.split} to train on. Give "
            "a smaller share."
        )
    return replace(dataset, records=dataset.records.take(kept))
