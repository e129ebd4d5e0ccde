"""Transforms against detectron2's documented laws, written down a second time here, and against hand-worked cases."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ecocli.config.dataset import AugmentationConfig, ResizeConfig
from ecocli.data.panoptic import decode_id_map, encode_id_map
from ecocli.data.transforms import (
    augment,
    change_colors,
    jitter_scale,
    resize_for_test,
    shortest_edge_size,
)


class ScriptedGenerator(np.random.Generator):
    """Returns prepared numbers instead of random ones, whatever the range asked for."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers: Iterator[float] = iter(numbers)
        self.ranges: list[tuple[object, ...]] = []

    def uniform(self, *arguments: object, **keywords: object) -> float:  # type: ignore[override]
        self.ranges.append(arguments)
        return float(next(self.numbers))

    def integers(self, *arguments: object, **keywords: object) -> int:  # type: ignore[override]
        self.ranges.append(arguments)
        return int(next(self.numbers))


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * 1000 + width)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    id_map = np.kron(rng.integers(0, 2**24 - 1, (-(-height // 3), -(-width // 4))), np.ones((3, 4), int))
    return image, id_map[:height, :width].astype(np.int32)


@pytest.mark.parametrize(
    "size, expected",
    [
        # Worked by hand with detectron2's rule, at 800 / 1333: 480 x 640 grows by 5/3;
        # 427 x 640 to 800 x 1199.06; 300 x 900 would be 800 x 2400, so the long edge decides: 444.3 x 1333.
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((427, 640), (800, 1199)),
        ((300, 900), (444, 1333)),
        ((800, 800), (800, 800)),
    ],
)
def test_shortest_edge_size__coco_rule__hand_worked(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shortest_edge_size(*size, 800, 1333) == expected


def test_shortest_edge_size__no_bound__short_edge_alone() -> None:
    assert shortest_edge_size(100, 1000, 50, None) == (50, 500)


def test_resize_for_test__rule__pillow_bilinear() -> None:
    image, _ = picture(12, 20)
    resized = resize_for_test(image, ResizeConfig(short_edge_px=18, long_edge_px=100))
    expected = np.asarray(Image.fromarray(image).resize((30, 18), Image.Resampling.BILINEAR))
    assert np.array_equal(resized, expected)


def test_resize_for_test__no_rule__same_pixels() -> None:
    image, _ = picture(12, 20)
    assert np.array_equal(resize_for_test(image, ResizeConfig()), image)


def _jitter_by_the_book(
    image: np.ndarray, id_map: np.ndarray, size: tuple[int, int], factor: float, position: float
) -> tuple[np.ndarray, np.ndarray]:
    """detectron2's ResizeScale and FixedSizeCrop, the panoptic picture as uint8 RGB padded with 255."""
    shape = np.array(id_map.shape)
    scale = np.minimum(size[0] * factor / shape[0], size[1] * factor / shape[1])
    height, width = np.round(shape * scale).astype(int).tolist()
    outputs = []
    for array, method, padding in (
        (image, Image.Resampling.BILINEAR, 128),
        (np.asarray(encode_id_map(id_map)), Image.Resampling.NEAREST, 255),
    ):
        scaled = np.asarray(Image.fromarray(array).resize((width, height), method))
        offset = np.round(np.maximum(np.array([height, width]) - size, 0) * position).astype(int)
        cut = scaled[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]]
        whole = np.full((*size, 3), padding, np.uint8)
        whole[: cut.shape[0], : cut.shape[1]] = cut
        outputs.append(whole)
    ids = decode_id_map(Image.fromarray(outputs[1]))
    # Id 16777215 is the padding; here it is VOID at once.
    return outputs[0], np.where(ids == 16777215, 0, ids)


@settings(max_examples=40)
@given(
    height=st.integers(5, 60),
    width=st.integers(5, 60),
    factor=st.floats(0.2, 2.0),
    position=st.floats(0.0, 1.0),
)
def test_jitter_scale__any_draw__equals_the_law(height: int, width: int, factor: float, position: float) -> None:
    image, id_map = picture(height, width)
    result = jitter_scale(image, id_map, (32, 40), factor=factor, position=position)
    expected = _jitter_by_the_book(image, id_map, (32, 40), factor, position)
    assert np.array_equal(result[0], expected[0])
    assert np.array_equal(result[1], expected[1])


def test_jitter_scale__half__padded_right_and_below() -> None:
    image, id_map = picture(20, 20)
    result_image, result_ids = jitter_scale(image, id_map, (20, 30), factor=0.5, position=0.7)
    assert result_image.shape == (20, 30, 3)
    assert (result_image[10:] == 128).all()
    assert (result_image[:, 10:] == 128).all()
    assert (result_ids[10:] == 0).all()
    assert np.array_equal(
        result_ids[:10, :10], np.asarray(Image.fromarray(id_map).resize((10, 10), Image.Resampling.NEAREST))
    )


def test_augment__jitter_recipe__order_flip_scale_crop() -> None:
    recipe = AugmentationConfig(scale_range=(0.1, 2.0), crop_height_px=16, crop_width_px=16)
    image, id_map = picture(16, 16)
    # Flip (0.2 < 0.5), factor 2, position 0: the upper left of the flipped picture, twice as large.
    result = augment(image, id_map, recipe, ScriptedGenerator(0.2, 2.0, 0.0))
    expected = jitter_scale(image[:, ::-1], id_map[:, ::-1], (16, 16), factor=2.0, position=0.0)
    assert np.array_equal(result[0], expected[0])
    assert np.array_equal(result[1], expected[1])


def test_augment__jitter_recipe_with_colors__colours_change_last() -> None:
    recipe = AugmentationConfig(scale_range=(0.1, 2.0), crop_height_px=16, crop_width_px=16, color="mild")
    image, id_map = picture(16, 16)
    # No flip (0.7 > 0.5), factor 1/2, position 0, then brightness times 1.1 and 10 more, of the grey padding too.
    result, _ = augment(image, id_map, recipe, ScriptedGenerator(0.7, 0.5, 0.0, 1.1, 10.0))
    plain, _ = jitter_scale(image, id_map, (16, 16), factor=0.5, position=0.0)
    assert np.array_equal(result, np.clip(plain * 1.1 + 10.0, 0, 255).astype(np.uint8))


def test_augment__crop_of_a_picture_one_pixel_larger__both_places_occur() -> None:
    recipe = AugmentationConfig(flip_ratio=0.0, crop_height_px=4, crop_width_px=4)
    id_map = np.arange(25, dtype=np.int32).reshape(5, 5)
    image = np.zeros((5, 5, 3), np.uint8)
    corners = {int(augment(image, id_map, recipe, np.random.default_rng(seed))[1][0, 0]) for seed in range(40)}
    assert corners == {0, 1, 5, 6}


@pytest.mark.parametrize("flip_ratio, flipped", [(0.0, False), (1.0, True)])
def test_augment__flip_only__both_or_none(flip_ratio: float, flipped: bool) -> None:
    image, id_map = picture(7, 9)
    result = augment(image, id_map, AugmentationConfig(flip_ratio=flip_ratio), np.random.default_rng(0))
    assert np.array_equal(result[0], image[:, ::-1] if flipped else image)
    assert np.array_equal(result[1], id_map[:, ::-1] if flipped else id_map)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_augment__crop_recipe__image_and_ids_stay_together(seed: int) -> None:
    # The image shows the id itself, so that any disagreement of the two is seen.
    id_map = np.arange(40 * 80, dtype=np.int32).reshape(40, 80)
    image = np.asarray(encode_id_map(id_map))
    recipe = AugmentationConfig(crop_height_px=20, crop_width_px=40)
    result_image, result_ids = augment(image, id_map, recipe, np.random.default_rng(seed))
    assert result_ids.shape == (20, 40)
    assert np.array_equal(decode_id_map(Image.fromarray(np.ascontiguousarray(result_image))), result_ids)


def test_augment__short_edges__resized_then_cropped() -> None:
    recipe = AugmentationConfig(
        flip_ratio=0.0, short_edges_px=(30,), long_edge_px=100, crop_height_px=20, crop_width_px=40
    )
    image, id_map = picture(15, 30)
    result_image, result_ids = augment(image, id_map, recipe, np.random.default_rng(1))
    large = np.asarray(Image.fromarray(image).resize((60, 30), Image.Resampling.BILINEAR))
    windows = [(top, left) for top in range(11) for left in range(21)]
    assert any(np.array_equal(large[t : t + 20, x : x + 40], result_image) for t, x in windows)
    assert result_ids.shape == (20, 40)


def test_augment__picture_smaller_than_crop__keeps_its_size() -> None:
    image, id_map = picture(7, 9)
    recipe = AugmentationConfig(crop_height_px=20, crop_width_px=40)
    assert augment(image, id_map, recipe, np.random.default_rng(0))[1].shape == (7, 9)


GREY = np.full((2, 2, 3), 100, np.uint8)
RED = np.zeros((2, 2, 3), np.uint8)
RED[..., 0] = 200


def test_change_colors__none__same() -> None:
    assert np.array_equal(change_colors(GREY, AugmentationConfig(), np.random.default_rng(0)), GREY)


def test_change_colors__mild__factor_and_shift() -> None:
    # 100 * 1.1 - 7 = 103
    changed = change_colors(GREY, AugmentationConfig(color="mild"), ScriptedGenerator(1.1, -7.0))
    assert (changed == 103).all()


@pytest.mark.parametrize(
    "numbers, expected",
    [
        # Chances in the order brightness, contrast first?, (contrast,) saturation, hue, (contrast).
        ((0, 0, 0, 0, 0), 100),  # nothing happens
        ((1, 20.0, 0, 0, 0, 0), 120),  # brightness 100 + 20
        ((0, 1, 1, 1.5, 0, 0), 150),  # contrast first: 100 * 1.5
        ((1, 20.0, 0, 0, 0, 1, 0.5), 60),  # brightness, contrast last: (100 + 20) * 0.5
        ((1, 32.0, 1, 1, 2.0, 0, 0), 255),  # clipped: (100 + 32) * 2 = 264
        ((0, 0, 1, 1.5, 1, 18, 0), 100),  # grey has neither saturation nor hue
    ],
)
def test_change_colors__ssd_on_grey__hand_worked(numbers: tuple[float, ...], expected: int) -> None:
    changed = change_colors(GREY, AugmentationConfig(color="ssd"), ScriptedGenerator(*numbers))
    assert (changed == expected).all()


def test_change_colors__ssd_hue__red_turns_by_36_degrees() -> None:
    # OpenCV's hue has 180 steps, so 18 steps are 36 degrees: (200, 0, 0) becomes (200, 120, 0).
    changed = change_colors(RED, AugmentationConfig(color="ssd"), ScriptedGenerator(0, 0, 0, 1, 18, 0))
    assert np.abs(changed[0, 0].astype(int) - [200, 120, 0]).max() <= 4


def test_change_colors__ssd_saturation__red_fades() -> None:
    # Half the saturation at equal value: (200, 100, 100).
    changed = change_colors(RED, AugmentationConfig(color="ssd"), ScriptedGenerator(0, 0, 1, 0.5, 0, 0))
    assert np.abs(changed[0, 0].astype(int) - [200, 100, 100]).max() <= 2


def test_change_colors__ssd__published_ranges() -> None:
    # Origin: detectron2's ColorAugSSDTransform: brightness within 32, contrast and saturation times 0.5 to 1.5, hue
    # within 18 of OpenCV's steps, both ends included; each of the five chances is one in two.
    rng = ScriptedGenerator(1, 0.0, 1, 1, 1.0, 1, 1.0, 1, 0)
    change_colors(np.full((2, 2, 3), 90, np.uint8), AugmentationConfig(color="ssd"), rng)
    chance = (2,)
    assert rng.ranges == [
        *(chance, (-32.0, 32.0)),
        *(chance, chance, (0.5, 1.5)),
        *(chance, (0.5, 1.5)),
        *(chance, (-18, 19)),
    ]
