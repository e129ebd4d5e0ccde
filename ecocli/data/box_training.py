"""Training samples of detection: images with boxes, varied at random but reproducibly.

Axes: T boxes, H W pixels. As in segmentation a sample is a function of (seed, epoch, image index). Crowds are no
targets. Boxes that a crop leaves nothing of are dropped; an image without any box stays, with T = 0.
Source of the recipe: DETR (arXiv 2005.12872), datasets/transforms.py (29901c5): flip; then either a random short edge,
or a first short edge, a window of random size and place, and the random short edge.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ecocli.config.dataset import AugmentationConfig
from ecocli.data.boxes import DetectionDataset
from ecocli.data.transforms import ImageArray, change_colors, jitter_scale, resize_image, shortest_edge_size
from ecocli.runtime.seeds import numpy_generator

Corners = Float64[np.ndarray, "T 4"]


@dataclass(frozen=True)
class BoxSample:
    """One image with its targets.

    Attributes:
        image: RGB image, not normalised.
        boxes: Centre x, centre y, width, height, as ratios of the image.
    """

    image: UInt8[Tensor, "3 H W"]
    labels: Int64[Tensor, " T"]
    boxes: Float32[Tensor, "T 4"]
    image_id: str


class BoxTrainingDataset(Dataset[BoxSample]):
    """Map from (epoch, image index) to a training sample."""

    def __init__(
        self,
        dataset: DetectionDataset,
        class_index: Mapping[int, int],
        augmentation: AugmentationConfig,
        seed: int,
        *,
        cache: bool = False,
    ) -> None:
        """Create the map.

        Args:
            class_index: The model's class of every category id.
            cache: Keep decoded images in memory, at 3 bytes a pixel; each process keeps its own.
        """
        self.dataset = dataset
        self.class_index = dict(class_index)
        self.augmentation = augmentation
        self.seed = seed
        self._cache: dict[int, NDArray[np.uint8]] | None = {} if cache else None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> BoxSample:
        """Make the sample of (epoch, image index).

        Raises:
            DataError: The image is missing, damaged, or not of the annotated size.
        """
        epoch, index = key
        record = self.dataset.records[index]
        image = self._load(index)
        height, width = image.shape[:2]
        own = ~record.is_crowd
        corners = np.concatenate((record.boxes[own, :2], record.boxes[own, :2] + record.boxes[own, 2:]), axis=1)
        corners = clip_corners(corners, (height, width))
        rng = numpy_generator("augment", self.seed, epoch, index)
        image, corners = augment_boxes(image, corners, self.augmentation, rng)
        height, width = image.shape[:2]
        kept = ((corners[:, 2:] - corners[:, :2]) > 0).all(axis=1)
        corners = corners[kept]
        labels = np.array([self.class_index[int(id_)] for id_ in record.category_ids[own][kept]], np.int64)
        centred = np.concatenate(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), axis=1)
        return BoxSample(
            image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            labels=torch.from_numpy(labels),
            boxes=torch.from_numpy((centred / (width, height, width, height)).astype(np.float32)),
            image_id=record.image_id,
        )

    def _load(self, index: int) -> NDArray[np.uint8]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        image = self.dataset.load_image(self.dataset.records[index])
        if self._cache is not None:
            self._cache[index] = image
        return image


def augment_boxes(
    image: ImageArray, corners: Corners, recipe: AugmentationConfig, rng: np.random.Generator
) -> tuple[ImageArray, Corners]:
    """Change an image and its boxes together, at random.

    Args:
        corners: Left, top, right, bottom of each box, in pixels.

    Returns:
        The changed pair; boxes that nothing is left of have no area.
    """
    if rng.uniform() < recipe.flip_ratio:
        width = image.shape[1]
        image = image[:, ::-1]
        corners = np.stack((width - corners[:, 2], corners[:, 1], width - corners[:, 0], corners[:, 3]), axis=1)
    if recipe.scale_range is not None and recipe.crop_size is not None:
        image, corners = _jitter(image, corners, recipe.crop_size, recipe.scale_range, rng)
    elif recipe.short_edges_px:
        if recipe.window is not None and rng.uniform() < recipe.window.ratio:
            short_edge = int(rng.choice(np.array(recipe.window.short_edges_px)))
            image, corners = _resize(
                image, corners, shortest_edge_size(image.shape[0], image.shape[1], short_edge, None)
            )
            least, most = recipe.window.min_px, recipe.window.max_px
            height, width = (int(rng.integers(min(least, side), min(most, side) + 1)) for side in image.shape[:2])
            image, corners = _crop(image, corners, (height, width), rng)
        short_edge = int(rng.choice(np.array(recipe.short_edges_px)))
        image, corners = _resize(
            image, corners, shortest_edge_size(image.shape[0], image.shape[1], short_edge, recipe.long_edge_px)
        )
        if recipe.crop_size is not None:
            image, corners = _crop(image, corners, recipe.crop_size, rng)
    return change_colors(image, recipe, rng), corners


def clip_corners(corners: Corners, size: tuple[int, int]) -> Corners:
    """Cut boxes at the borders of an image of a height and width."""
    height, width = size
    clipped: Corners = corners.clip(0, (width, height, width, height))
    return clipped


def _resize(image: ImageArray, corners: Corners, size: tuple[int, int]) -> tuple[ImageArray, Corners]:
    ratio_y, ratio_x = size[0] / image.shape[0], size[1] / image.shape[1]
    return resize_image(image, size), corners * (ratio_x, ratio_y, ratio_x, ratio_y)


def _crop(
    image: ImageArray, corners: Corners, size: tuple[int, int], rng: np.random.Generator
) -> tuple[ImageArray, Corners]:
    """Cut out a window at a random place; a smaller picture stays smaller."""
    height, width = image.shape[:2]
    top = int(rng.integers(max(0, height - size[0]) + 1))
    left = int(rng.integers(max(0, width - size[1]) + 1))
    window = image[top : top + size[0], left : left + size[1]]
    return window, clip_corners(corners - (left, top, left, top), window.shape[:2])


def _jitter(
    image: ImageArray,
    corners: Corners,
    size: tuple[int, int],
    scale_range: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[ImageArray, Corners]:
    """Large-scale jitter; the geometry is ``jitter_scale``'s."""
    factor, position = rng.uniform(*scale_range), rng.uniform(0.0, 1.0)
    height, width = image.shape[:2]
    scale = min(size[0] * factor / height, size[1] * factor / width)
    scaled = (max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = (round(max(0, have - want) * position) for have, want in zip(scaled, size, strict=True))
    ratio_y, ratio_x = scaled[0] / height, scaled[1] / width
    moved = corners * (ratio_x, ratio_y, ratio_x, ratio_y) - (left, top, left, top)
    visible = (min(size[0], scaled[0] - top), min(size[1], scaled[1] - left))
    no_ids = np.zeros(image.shape[:2], np.int32)
    return jitter_scale(image, no_ids, size, factor=factor, position=position)[0], clip_corners(moved, visible)
