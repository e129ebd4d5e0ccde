"""Interleaved encoder layers against a plain, slow form, and against Mask2Former's layer."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ecocli.exits import ExitPlan
from ecocli.model.deformable import DeformableEncoder, DeformableEncoderLayer

SHAPES = ((2, 3), (4, 5), (7, 9))
STARTS = (0, 6, 26)
TOKENS, HIGH, C, M, P = 89, 26, 16, 4, 2


def layer_of(updated_levels: int | None, small_ffn_from: int | None = None) -> DeformableEncoderLayer:
    torch.manual_seed(3)
    layer = DeformableEncoderLayer(C, 3, M, P, 24, updated_levels, small_ffn_from)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer.eval()


def value_at(level: Tensor, x: float, y: float) -> Tensor:
    """Bilinear value of a level [H, W, D] at a place in cells, whose centres are whole numbers; zero outside."""
    height, width = level.shape[:2]
    left, top = int(torch.floor(torch.tensor(x))), int(torch.floor(torch.tensor(y)))
    total = torch.zeros(level.shape[2], dtype=level.dtype)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            total = total + (1 - abs(y - row)) * (1 - abs(x - column)) * level[row, column]
    return total


def slow_interleaved(layer: DeformableEncoderLayer, tokens: Tensor, positions: Tensor) -> Tensor:
    """The layer on one image, written token by token: high tokens [HIGH] look at all, low ones stay."""
    attention = layer.self_attn
    values = attention.value_proj(tokens).view(TOKENS, M, C // M)
    levels = [values[s : s + h * w].view(h, w, M, C // M) for s, (h, w) in zip(STARTS, SHAPES, strict=True)]
    rows = []
    centres = [((x + 0.5) / w, (y + 0.5) / h) for h, w in SHAPES for y in range(h) for x in range(w)]
    for token in range(HIGH):
        query = tokens[token] + positions[token]
        offsets = attention.sampling_offsets(query).view(M, 3, P, 2)
        weights = attention.attention_weights(query).view(M, 3 * P).softmax(-1).view(M, 3, P)
        heads = []
        for head in range(M):
            summed = torch.zeros(C // M)
            for index, (height, width) in enumerate(SHAPES):
                for point in range(P):
                    x = centres[token][0] * width + float(offsets[head, index, point, 0]) - 0.5
                    y = centres[token][1] * height + float(offsets[head, index, point, 1]) - 0.5
                    summed = summed + weights[head, index, point] * value_at(levels[index][:, :, head], x, y)
            heads.append(summed)
        rows.append(attention.output_proj(torch.cat(heads)))
    high = layer.norm1(tokens[:HIGH] + torch.stack(rows))
    high = layer.norm2(high + layer.linear2(F.relu(layer.linear1(high))))
    return torch.cat((high, tokens[HIGH:]))


@pytest.mark.parametrize("gradients", [True, False], ids=["whole", "in tiles"])
def test_forward__two_levels_updated__equals_the_slow_form(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecocli.model.deformable.TILE_TOKENS", 10)
    layer = layer_of(updated_levels=2)
    tokens, positions = torch.randn(1, TOKENS, C), torch.randn(TOKENS, C)
    with torch.set_grad_enabled(gradients):
        found = layer(tokens, positions, SHAPES, layer.make_workspace(tokens, SHAPES))
    with torch.no_grad():
        expected = slow_interleaved(layer, tokens[0], positions)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)
    assert torch.equal(found[0, HIGH:], tokens[0, HIGH:])


def test_forward__all_levels_updated__equals_mask2formers_layer() -> None:
    tokens, positions = torch.randn(2, TOKENS, C), torch.randn(TOKENS, C)
    assert torch.equal(layer_of(3)(tokens, positions, SHAPES), layer_of(None)(tokens, positions, SHAPES))


@pytest.mark.parametrize("tile_tokens", [10, 512])
def test_forward__small_ffn__fine_tokens_take_the_narrow_net(tile_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecocli.model.deformable.TILE_TOKENS", tile_tokens)
    layer = layer_of(None, small_ffn_from=2)
    tokens, positions = torch.randn(3, TOKENS, C), torch.randn(TOKENS, C)
    with torch.no_grad():
        u = layer.norm1(tokens + layer.self_attn(tokens + positions, tokens, SHAPES))
        wide = layer.norm2(u + layer.linear2(F.relu(layer.linear1(u))))
        narrow = layer.norm22(u + layer.linear22(F.relu(layer.linear12(u))))
        found = layer(tokens, positions, SHAPES, layer.make_workspace(tokens, SHAPES))
    expected = torch.cat((wide[:, :HIGH], narrow[:, HIGH:]), dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_encoder__exits_with_a_tail__run_the_layers_of_the_plan() -> None:
    torch.manual_seed(3)
    plan = ExitPlan(4, (1, 2, 3), tail=(3,))
    encoder = DeformableEncoder(C, 3, M, P, 24, plan, updated_levels=2, small_ffn=True).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, positions = torch.randn(3, TOKENS, C), torch.randn(TOKENS, C)
    with torch.no_grad():
        expected = {}
        for depth in plan.depths:
            running = tokens
            for index in plan.layers_of(depth):
                running = encoder.runner(running, positions, SHAPES)(index, running, range(len(running)))
            expected[depth] = running
        for depth, found in zip((3, 1), encoder(tokens, positions, SHAPES, (3, 1)), strict=True):
            assert torch.equal(found, expected[depth])
        mixed = encoder.forward_per_image(tokens, positions, SHAPES, torch.tensor([2, 3, 1]))
    for image, depth in enumerate((2, 3, 1)):
        torch.testing.assert_close(mixed[image], expected[depth][image], rtol=0, atol=1e-5)
