"""Training samples: images with one boolean mask per segment, varied at random but reproducibly.

Axes: T segments, H W pixels. A sample is a function of (seed, epoch, image index), so it does not matter which process
or worker makes it, in which order, or whether the run was resumed. Crowd segments give no mask: their pixels belong to
nothing, as in Mask2Former. An image without any other segment stays, with T = 0.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ecocli.config.dataset import AugmentationConfig
from ecocli.data.panoptic import ImageRecord, PanopticDataset
from ecocli.data.transforms import augment
from ecocli.runtime.seeds import numpy_generator


@dataclass(frozen=True)
class TrainingSample:
    """One image with its targets.

    Attributes:
        image: RGB image, not normalised.
        masks: True where the segment is.
    """

    image: UInt8[Tensor, "3 H W"]
    labels: Int64[Tensor, " T"]
    masks: Bool[Tensor, "T H W"]
    image_id: str


class TrainingDataset(Dataset[TrainingSample]):
    """Map from (epoch, image index) to a training sample."""

    def __init__(
        self, dataset: PanopticDataset, augmentation: AugmentationConfig, seed: int, *, cache: bool = False
    ) -> None:
        """Create the map.

        Args:
            cache: Keep decoded images and id maps in memory, at 4 to 7 bytes a pixel; each process keeps its own.
        """
        self.dataset = dataset
        self.augmentation = augmentation
        self.seed = seed
        self._cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.integer]]] | None = {} if cache else None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> TrainingSample:
        """Make the sample of (epoch, image index).

        Raises:
            DataError: Image or PNG are missing, damaged, or differ from the annotation.
        """
        epoch, index = key
        record = self.dataset.records[index]
        image, id_map = self._load(index, record)
        rng = numpy_generator("augment", self.seed, epoch, index)
        image, id_map = augment(image, id_map, self.augmentation, rng)
        segments = [segment for segment in record.segments if not segment.is_crowd]
        ids = np.array([segment.id for segment in segments], np.int32)
        masks = id_map[None] == ids[:, None, None]
        labels = np.array([self.dataset.class_index[segment.category_id] for segment in segments], np.int64)
        if not self.augmentation.keep_empty_masks:
            kept = masks.any(axis=(1, 2))
            masks, labels = masks[kept], labels[kept]
        return TrainingSample(
            image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            labels=torch.from_numpy(labels),
            masks=torch.from_numpy(masks),
            image_id=record.image_id,
        )

    def _load(self, index: int, record: ImageRecord) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        if self._cache is not None and index in self._cache:
            image, small = self._cache[index]
            return image, small.astype(np.int32)
        image, id_map = self.dataset.load_image(record), self.dataset.load_panoptic(record)
        if self._cache is not None:
            fits_byte = id_map.max(initial=0) < 256
            self._cache[index] = (image, id_map.astype(np.uint8) if fits_byte else id_map)
        return image, id_map
