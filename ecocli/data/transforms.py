"""Image transforms on Pillow: the test-time size rule and the random changes of training images.

Axes: H W pixels. Images are uint8 RGB [H, W, 3], id maps int32 [H, W]. Source: Mask2Former's recipes, that is the laws
of detectron2's flip, scale jitter, crop, shortest-edge resize and SSD colour changes. Given the same random numbers,
geometry is byte-equal to detectron2's, whose panoptic PNG goes through Pillow's nearest neighbour as well. Differences:
padding of the id map is 0 = VOID, not the id 16777215; hue and saturation change in Pillow's HSV, not in OpenCV's,
whose hue has steps of two degrees.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecocli.config.dataset import AugmentationConfig, ResizeConfig

ImageArray = NDArray[np.uint8]
IdMap = NDArray[np.int32]

PADDING_GREY = 128


def shortest_edge_size(height: int, width: int, short_edge_px: int, long_edge_px: int | None) -> tuple[int, int]:
    """Compute the size at which the short edge has a wanted length and the long edge keeps its bound.

    Returns:
        Height and width, rounded half up.
    """
    scale = short_edge_px / min(height, width)
    new_height, new_width = (
        (float(short_edge_px), scale * width) if height < width else (scale * height, float(short_edge_px))
    )
    if long_edge_px is not None and max(new_height, new_width) > long_edge_px:
        shrink = long_edge_px / max(new_height, new_width)
        new_height, new_width = new_height * shrink, new_width * shrink
    return int(new_height + 0.5), int(new_width + 0.5)


def resize_image(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Resize an image to (height, width), bilinear with antialiasing."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_id_map(id_map: IdMap, size: tuple[int, int]) -> IdMap:
    """Resize an id map to (height, width), taking the nearest pixel."""
    if id_map.shape == size:
        return id_map
    return np.asarray(Image.fromarray(id_map).resize((size[1], size[0]), Image.Resampling.NEAREST))


def resize_for_test(image: ImageArray, rule: ResizeConfig) -> ImageArray:
    """Resize an image by the test rule; the ground truth stays at its own size."""
    if rule.short_edge_px is None:
        return image
    height, width = image.shape[:2]
    return resize_image(image, shortest_edge_size(height, width, rule.short_edge_px, rule.long_edge_px))


def augment(
    image: ImageArray, id_map: IdMap, recipe: AugmentationConfig, rng: np.random.Generator
) -> tuple[ImageArray, IdMap]:
    """Change an image and its id map together, at random.

    With jitter the order is flip, scale, crop, colour; with short edges it is scale, crop, colour, flip: each the order
    of its published recipe.

    Returns:
        The changed pair; padding is grey in the image and 0 in the id map.
    """
    if recipe.scale_range is not None and recipe.crop_size is not None:
        image, id_map = _flip(image, id_map, recipe, rng)
        factor, position = rng.uniform(*recipe.scale_range), rng.uniform(0.0, 1.0)
        image, id_map = jitter_scale(image, id_map, recipe.crop_size, factor=factor, position=position)
        return change_colors(image, recipe, rng), id_map
    if recipe.short_edges_px:
        short_edge = int(rng.choice(np.array(recipe.short_edges_px)))
        height, width = id_map.shape
        size = shortest_edge_size(height, width, short_edge, recipe.long_edge_px)
        image, id_map = resize_image(image, size), resize_id_map(id_map, size)
    if recipe.crop_size is not None:
        image, id_map = _crop(image, id_map, recipe.crop_size, rng)
    return _flip(change_colors(image, recipe, rng), id_map, recipe, rng)


def jitter_scale(
    image: ImageArray, id_map: IdMap, size: tuple[int, int], *, factor: float, position: float
) -> tuple[ImageArray, IdMap]:
    """Scale so that the picture fits into ``factor`` times ``size``, then cut out or pad to ``size``.

    Args:
        size: Height and width of the result.
        factor: Large-scale jitter factor, 1 for a picture that just fits.
        position: Where to cut, 0 for the upper left to 1 for the lower right; one number for both directions.

    Returns:
        The pair at the wanted size, padded on the right and below.
    """
    height, width = id_map.shape
    scale = min(size[0] * factor / height, size[1] * factor / width)
    scaled = (max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = (round(max(0, have - want) * position) for have, want in zip(scaled, size, strict=True))
    window = (slice(top, top + size[0]), slice(left, left + size[1]))
    image = resize_image(image, scaled)[window]
    id_map = resize_id_map(id_map, scaled)[window]
    below, right = size[0] - id_map.shape[0], size[1] - id_map.shape[1]
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=PADDING_GREY)
        id_map = np.pad(id_map, ((0, below), (0, right)))
    return image, id_map


def _crop(
    image: ImageArray, id_map: IdMap, size: tuple[int, int], rng: np.random.Generator
) -> tuple[ImageArray, IdMap]:
    """Cut out a window at a random place; a smaller picture stays smaller."""
    height, width = id_map.shape
    top = int(rng.integers(max(0, height - size[0]) + 1))
    left = int(rng.integers(max(0, width - size[1]) + 1))
    window = (slice(top, top + size[0]), slice(left, left + size[1]))
    return image[window], id_map[window]


def _flip(
    image: ImageArray, id_map: IdMap, recipe: AugmentationConfig, rng: np.random.Generator
) -> tuple[ImageArray, IdMap]:
    if rng.uniform() < recipe.flip_ratio:
        return image[:, ::-1], id_map[:, ::-1]
    return image, id_map


def change_colors(image: ImageArray, recipe: AugmentationConfig, rng: np.random.Generator) -> ImageArray:
    """Change brightness, contrast, saturation and hue at random, as far as the recipe says."""
    if recipe.color == "mild":
        return _scale_and_shift(image, rng.uniform(0.85, 1.15), rng.uniform(-14.0, 14.0))
    if recipe.color == "ssd":
        return _ssd_colors(image, rng)
    return image


def _scale_and_shift(image: ImageArray, factor: float = 1.0, shift: float = 0.0) -> ImageArray:
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)
    return np.asarray(table[image])


def _ssd_colors(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Change colours as SSD does: every change with probability 1/2, contrast first or last."""

    def chance() -> bool:
        return bool(rng.integers(2))

    if chance():
        image = _scale_and_shift(image, shift=rng.uniform(-32.0, 32.0))
    contrast_first = chance()
    if contrast_first and chance():
        image = _scale_and_shift(image, rng.uniform(0.5, 1.5))
    saturation = rng.uniform(0.5, 1.5) if chance() else 1.0
    hue_degrees = 2 * int(rng.integers(-18, 19)) if chance() else 0
    image = _change_hue_and_saturation(image, hue_degrees, saturation)
    if not contrast_first and chance():
        image = _scale_and_shift(image, rng.uniform(0.5, 1.5))
    return image


def _change_hue_and_saturation(image: ImageArray, hue_degrees: int, saturation: float) -> ImageArray:
    if saturation == 1.0 and hue_degrees == 0:
        return image
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    hsv[..., 0] += np.uint8(round(hue_degrees / 360 * 256) % 256)  # a full turn is 256, so it wraps by itself
    hsv[..., 1] = _scale_and_shift(hsv[..., 1], saturation)
    return np.asarray(Image.frombytes("HSV", (hsv.shape[1], hsv.shape[0]), hsv.tobytes()).convert("RGB"))
