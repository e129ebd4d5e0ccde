"""Deformable attention: both ways to sample, exits and per-image depths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecocli.model.deformable import (
    DeformableAttention,
    DeformableEncoder,
    reference_points,
    sample_with_gather_sum,
    sample_with_grid_sample,
)

SHAPES = ((2, 3), (4, 5), (7, 9))
TOKENS = sum(h * w for h, w in SHAPES)


def small_encoder(layers: int = 4) -> DeformableEncoder:
    torch.manual_seed(3)
    encoder = DeformableEncoder(channels=16, levels=3, heads=4, points=2, feedforward_dim=24, layers=layers)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


def test_sample__one_point_between_two_cells__is_their_weighted_mean() -> None:
    # Worked by hand: one level of 1 x 2 cells with values 1 and 3; x = 0.375 lies a quarter of the way between the
    # centres at 0.25 and 0.75, so 0.75 * 1 + 0.25 * 3 = 1.5; x = 0 is half a cell outside: 0.5 * 1.
    value = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    locations = torch.tensor([[0.375, 0.5], [0.0, 0.5]]).view(1, 2, 1, 1, 1, 2)
    weights = torch.ones(1, 2, 1, 1, 1)
    for sample in (sample_with_grid_sample, sample_with_gather_sum):
        found = sample(value, ((1, 2),), locations, weights)
        torch.testing.assert_close(found, torch.tensor([1.5, 0.5]).view(1, 2, 1))


@settings(max_examples=25)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3),
    batch=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_sample__any_sizes_and_places__both_ways_agree(shapes: list[tuple[int, int]], batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(batch, tokens, 2, 3, generator=generator)
    locations = torch.rand(batch, 5, 2, len(shapes), 4, 2, generator=generator) * 2 - 0.5
    weights = torch.rand(batch, 5, 2, len(shapes), 4, generator=generator)
    expected = sample_with_grid_sample(value, tuple(shapes), locations, weights)
    found = sample_with_gather_sum(value, tuple(shapes), locations, weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_reference_points__two_by_two__are_cell_centres_row_by_row() -> None:
    found = reference_points(((2, 2),), torch.device("cpu"))
    assert found.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_deformable_attention__heads_do_not_divide_channels__says_so() -> None:
    with pytest.raises(ValueError, match=r"10 channels cannot be split over 4 heads; use a multiple of 4"):
        DeformableAttention(10, 3, 4, 2)


def test_encoder__several_depths__equals_separate_runs() -> None:
    encoder, tokens, positions = small_encoder(), torch.randn(2, TOKENS, 16), torch.randn(TOKENS, 16)
    with torch.no_grad():
        together = encoder(tokens, positions, SHAPES, (4, 2, 3))
        for depth, found in zip((4, 2, 3), together, strict=True):
            (alone,) = encoder(tokens, positions, SHAPES, (depth,))
            torch.testing.assert_close(found, alone, rtol=0, atol=0)


def test_forward_per_image__mixed_depths__equals_each_images_own_exit() -> None:
    encoder, tokens, positions = small_encoder(), torch.randn(4, TOKENS, 16), torch.randn(TOKENS, 16)
    depths = [3, 1, 4, 1]
    with torch.no_grad():
        found = encoder.forward_per_image(tokens, positions, SHAPES, torch.tensor(depths))
        for row, depth in enumerate(depths):
            (alone,) = encoder(tokens[row : row + 1], positions, SHAPES, (depth,))
            torch.testing.assert_close(found[row], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("depths", [(0,), (2, 5), ()])
def test_encoder__depth_outside_its_layers__says_which_are_allowed(depths: tuple[int, ...]) -> None:
    encoder, tokens, positions = small_encoder(), torch.randn(2, TOKENS, 16), torch.randn(TOKENS, 16)
    with pytest.raises(ValueError, match=r"an encoder with 4 layers; give at least one depth, each from 1 to 4"):
        encoder(tokens, positions, SHAPES, depths)
