"""Pooled features, the gate and its choice."""

import numpy as np
import pytest
import torch

from ecocli.model.detr import MapFeatures
from ecocli.model.gate import Gate, pool_features, select_exit_depth
from ecocli.model.pixel_decoder import Features


def test_select_exit_depth__tie__takes_cheaper_exit() -> None:
    # Worked by hand: image 0 ties at depths 2 and 3; image 1 peaks at depth 4.
    gate_logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.5, 2.0]])
    assert select_exit_depth(gate_logits, torch.tensor([2, 3, 4])).tolist() == [2, 4]


def test_pool_features__padded_image__ignores_padding() -> None:
    # Two images of 64 x 64 padded pixels: 2 x 2 cells at stride 32. Image 0 fills them; image 1 is 20 x 33, so its
    # cells are one row of two, and the second row is padding. Worked by hand.
    res5 = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(2, 1, 2, 2)
    tokens = torch.cat((10 * res5.flatten(2).transpose(1, 2), torch.full((2, 5, 1), 1e6)), dim=1)
    maps = {"res5": res5}
    features = Features(maps, tokens, ((2, 2), (1, 5)), torch.zeros(2, 1, 8, 8))
    pooled = pool_features(features, [(64, 64), (20, 33)])
    assert pooled["res5"].tolist() == [[2.5], [1.5]]
    assert pooled["projected"].tolist() == [[25.0], [15.0]]


def test_pool_features__tokens__mean_and_max_of_own_cells_of_each_level() -> None:
    # Levels of 2 x 2, 4 x 4 and 8 x 8 cells: an image of 20 x 33 pixels owns 1 x 2, 2 x 3 and 3 x 5 of them;
    # numpy pools those. Padding is larger and smaller than anything, and must show in neither mean nor maximum.
    generator = np.random.default_rng(3)
    own = [generator.integers(-40, 40, (*shape, 2)).astype(np.float32) / 4 for shape in ((1, 2), (2, 3), (3, 5))]
    maps = []
    for level, side in zip(own, (2, 4, 8), strict=True):
        padded = np.full((side, side, 2), (1e4, -1e4), np.float32)
        padded[: level.shape[0], : level.shape[1]] = level
        maps.append(padded.reshape(-1, 2))
    tokens = torch.from_numpy(np.concatenate(maps))[None]
    features = Features({"res5": torch.zeros(1, 1, 2, 2)}, tokens, ((2, 2), (4, 4), (8, 8)), torch.zeros(1, 2, 16, 16))
    expected = np.concatenate([value for level in own for value in (level.mean((0, 1)), level.max((0, 1)))])
    pooled = pool_features(features, [(20, 33)], ("tokens",))
    assert list(pooled) == ["tokens"]
    assert pooled["tokens"][0].numpy() == pytest.approx(expected.astype(np.float16).astype(np.float32), rel=1e-3)


@pytest.mark.parametrize("shape", [(5, 7), (40, 300)])
def test_pool_features__larger_padding__same_bits(shape: tuple[int, int]) -> None:
    # Law: a mixed batch pads an image further, and its row must not notice. (40, 300) is more than one block of cells.
    generator = torch.Generator().manual_seed(1)
    height, width = shape
    level = torch.randn(height, width, 3, generator=generator)
    pooled = []
    for rows, columns in (shape, (height + 3, width + 9)):
        padded = torch.full((rows, columns, 3), 7.0)
        padded[:height, :width] = level
        features = Features({}, padded.reshape(1, -1, 3), ((rows, columns),), torch.zeros(1, 3, 1, 1))
        pooled.append(pool_features(features, [(32 * height - 5, 32 * width)], ("tokens",))["tokens"])
    assert torch.equal(*pooled)


def test_pool_features__fine_value__is_rounded_as_the_table_stores_it() -> None:
    # 1 + 2^-12 is not a float16; the nearest is 1.
    res5 = torch.full((1, 1, 1, 1), 1 + 2.0**-12)
    features = Features({"res5": res5}, torch.zeros(1, 1, 1), ((1, 1),), torch.zeros(1, 1, 8, 8))
    assert pool_features(features, [(32, 32)])["res5"].item() == 1.0


def test_gate__batch__one_score_per_exit() -> None:
    gate = Gate(features=6, exits=4)
    assert gate(torch.zeros(3, 6)).tolist() == [gate.linear.bias.tolist()] * 3


def test_pool_features__padding_mask__only_cells_of_the_image() -> None:
    # A detector says itself which of its cells are padding: of image 1 the second row and the last column. By hand.
    res5 = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).expand(2, 1, 2, 3)
    padding = torch.tensor([[False] * 6, [False, False, True, True, True, True]])
    features = MapFeatures(
        {"res5": res5}, 10 * res5.flatten(2).transpose(1, 2), ((2, 3),), torch.zeros(2, 6, 1), padding, 32
    )
    pooled = pool_features(features, [(64, 96), (32, 64)])
    assert pooled["res5"].tolist() == [[3.5], [1.5]]
    assert pooled["projected"].tolist() == [[35.0], [15.0]]


def test_pool_features__stride_of_16__every_cell() -> None:
    res5 = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    features = MapFeatures({"res5": res5}, res5.flatten(2).transpose(1, 2), ((2, 2),), torch.zeros(1, 4, 1), None, 16)
    assert pool_features(features, [(32, 32)])["res5"].item() == 2.5
