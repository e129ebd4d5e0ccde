"""Deformable attention: layers with and without gradients, exits and per-image depths."""

import pytest
import torch

from ecocli.exits import ExitPlan
from ecocli.model.deformable import DeformableAttention, DeformableEncoder, SamplingMethod

SHAPES = ((2, 3), (4, 5), (7, 9))
TOKENS = sum(h * w for h, w in SHAPES)


def small_encoder(layers: int = 4) -> DeformableEncoder:
    torch.manual_seed(3)
    encoder = DeformableEncoder(
        channels=16,
        levels=3,
        heads=4,
        points=2,
        feedforward_dim=24,
        exits=ExitPlan(layers, tuple(range(1, layers + 1))),
    )
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


def test_deformable_attention__heads_do_not_divide_channels__says_so() -> None:
    with pytest.raises(ValueError, match=r"10 channels cannot be split over 4 heads; use a multiple of 4"):
        DeformableAttention(10, 3, 4, 2)


@pytest.mark.parametrize("tile_tokens", [7, 100, 512])
def test_encoder__without_gradients__tiles_equal_whole_layers(
    tile_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 89 tokens: tiles of 7 leave a rest, 100 takes image by image, 512 all three images at once.
    monkeypatch.setattr("ecocli.model.deformable.TILE_TOKENS", tile_tokens)
    encoder, tokens, positions = small_encoder(), torch.randn(3, TOKENS, 16), torch.randn(TOKENS, 16)
    whole = encoder(tokens, positions, SHAPES, (1, 4))
    with torch.no_grad():
        in_tiles = encoder(tokens, positions, SHAPES, (1, 4))
    for expected, found in zip(whole, in_tiles, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_deformable_attention__either_sampling__same_gradients_of_every_weight() -> None:
    torch.manual_seed(5)
    attention = DeformableAttention(16, 3, 4, 2)
    # Fresh weights sample exact cell centres, where the gradient jumps.
    torch.nn.init.normal_(attention.sampling_offsets.bias)
    query, source = torch.randn(2, TOKENS, 16), torch.randn(2, TOKENS, 16)
    gradients = []
    methods: tuple[SamplingMethod, ...] = ("grid_sample", "gather_sum")
    for method in methods:
        attention.sampling = method
        attention.zero_grad()
        attention(query, source, SHAPES).square().sum().backward()
        gradients.append({name: p.grad for name, p in attention.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-3, msg=name)


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
    with pytest.raises(ValueError, match=r"an encoder with 4 layers, which can be left after 1, 2, 3, 4; give"):
        encoder(tokens, positions, SHAPES, depths)
