"""Multi-scale deformable attention and the transformer encoder built on it, in pure PyTorch.

Shapes: B images, N tokens (levels in the order stride 32, 16, 8, each row-major), C channels, M heads, D channels of a
head (C = M D), L levels, P points per level.
Source: Deformable DETR (arXiv 2010.04159) as used by Mask2Former (modeling/pixel_decoder/msdeformattn.py, 9b0651c);
state-dict names are the original's. Differences: padding is never masked (as in Mask2Former), so reference points are
plain cell centres, computed once per size; no compiled operator; the encoder yields the tokens of any set of depths.

Two equal ways to sample: ``grid_sample`` per level, and one weighted gather-sum (``embedding_bag`` over the bilinear
corner indices). See ARCHITECTURE.md for the measurements behind the choice.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

SpatialShapes = tuple[tuple[int, int], ...]
SamplingMethod = Literal["auto", "grid_sample", "gather_sum"]


@lru_cache(maxsize=64)
def reference_points(shapes: SpatialShapes, device: torch.device) -> Float[Tensor, "N 2"]:
    """Centre of every token's cell as (x, y) in 0..1, cached by size."""
    with torch.inference_mode(False):
        levels = []
        for height, width in shapes:
            y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
            x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            levels.append(torch.stack((grid_x, grid_y), dim=-1).reshape(-1, 2))
        return torch.cat(levels)


def sample_with_grid_sample(
    value: Float[Tensor, "B N M D"],
    shapes: SpatialShapes,
    locations: Float[Tensor, "B Nq M L P 2"],
    weights: Float[Tensor, "B Nq M L P"],
) -> Float[Tensor, "B Nq C"]:
    """Weighted bilinear samples, level by level through ``grid_sample``.

    Args:
        value: Projected tokens, split into heads.
        shapes: Height and width of every level, in cells.
        locations: Where to sample, (x, y) in 0..1 of the level; outside counts as zero.
        weights: Attention weights, summing to 1 over levels and points.
    """
    B, _, M, D = value.shape
    _, Nq, _, _, P, _ = locations.shape
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).reshape(len(shapes), B * M, Nq, P, 2)
    sampled = []
    start = 0
    for level, (height, width) in enumerate(shapes):
        tokens = value[:, start : start + height * width]
        level_map = tokens.permute(0, 2, 3, 1).reshape(B * M, D, height, width)
        sampled.append(F.grid_sample(level_map, grids[level], mode="bilinear", align_corners=False))
        start += height * width
    # [B M, D, Nq, L P] weighted by [B M, 1, Nq, L P]
    stacked = torch.cat(sampled, dim=-1)
    scale = weights.permute(0, 2, 1, 3, 4).reshape(B * M, 1, Nq, -1)
    return (stacked * scale).sum(-1).view(B, M * D, Nq).transpose(1, 2)


def sample_with_gather_sum(
    value: Float[Tensor, "B N M D"],
    shapes: SpatialShapes,
    locations: Float[Tensor, "B Nq M L P 2"],
    weights: Float[Tensor, "B Nq M L P"],
) -> Float[Tensor, "B Nq C"]:
    """The same as ``sample_with_grid_sample`` as one weighted sum of gathered rows (see there for the arguments).

    Each sample is four corner cells with bilinear weights; a corner outside the level gets weight zero.
    """
    B, N, M, D = value.shape
    Nq = locations.shape[1]
    device = value.device
    sizes = torch.tensor([(width, height) for height, width in shapes], device=device)
    starts = torch.tensor([sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))], device=device).view(
        -1, 1
    )
    scale = sizes.to(value.dtype).view(len(shapes), 1, 2)
    pixels = locations * scale - 0.5
    low = pixels.floor()
    fraction = pixels - low
    x0, y0 = low.to(torch.int32).unbind(-1)
    fx, fy = fraction.unbind(-1)
    width = sizes[:, 0].to(torch.int32).view(-1, 1)
    height = sizes[:, 1].to(torch.int32).view(-1, 1)
    image_offset = (torch.arange(B, device=device, dtype=torch.int32) * N).view(B, 1, 1, 1, 1)
    head = torch.arange(M, device=device, dtype=torch.int32).view(M, 1, 1)
    base = image_offset + starts.to(torch.int32)
    indices, corner_weights = [], []
    for dy in (0, 1):
        y = y0 + dy
        wy = fy if dy else 1 - fy
        row = y.clamp(min=0).minimum(height - 1) * width
        inside_y = (y >= 0) & (y < height)
        for dx in (0, 1):
            x = x0 + dx
            wx = fx if dx else 1 - fx
            inside = inside_y & (x >= 0) & (x < width)
            cell = row + x.clamp(min=0).minimum(width - 1) + base
            indices.append(cell * M + head)
            corner_weights.append(weights * wx * wy * inside)
    index = torch.stack(indices, dim=-1).reshape(-1)
    weight = torch.stack(corner_weights, dim=-1).reshape(-1)
    bag = 4 * weights.shape[3] * weights.shape[4]
    offsets = torch.arange(0, index.numel(), bag, device=device, dtype=torch.int32)
    rows = value.reshape(B * N * M, D)
    summed = F.embedding_bag(index, rows, offsets, mode="sum", per_sample_weights=weight.to(rows.dtype))
    return summed.view(B, Nq, M * D)


class DeformableAttention(nn.Module):
    """Every token attends to P learned points around its own cell on each level.

    Args:
        channels: C.
        levels: L.
        heads: M.
        points: P.
    """

    def __init__(self, channels: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split over {heads} heads; use a multiple of {heads}")
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling: SamplingMethod = "auto"
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Original initialisation: heads look in M directions, point p at distance p + 1, weights uniform."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = direction.view(self.heads, 1, 1, 2) * distance.view(1, 1, self.points, 1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(self.heads, self.levels, self.points, 2).reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Float[Tensor, "B Nq C"],
        value_source: Float[Tensor, "B N C"],
        references: Float[Tensor, "Nq 2"],
        shapes: SpatialShapes,
    ) -> Float[Tensor, "B Nq C"]:
        """Attend from ``query`` (positions added) to ``value_source`` (positions not added).

        Args:
            query: Tokens with their position and level embedding.
            value_source: Tokens to sample from.
            references: Cell centre of every query, (x, y) in 0..1.
            shapes: Height and width of every level of ``value_source``, in cells.
        """
        B, Nq, C = query.shape
        value = self.value_proj(value_source).view(B, -1, self.heads, C // self.heads)
        offsets = self.sampling_offsets(query).view(B, Nq, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(B, Nq, self.heads, self.levels * self.points)
        weights = weights.softmax(-1).view(B, Nq, self.heads, self.levels, self.points)
        sizes = query.new_tensor([(width, height) for height, width in shapes])
        locations = references.view(1, Nq, 1, 1, 1, 2) + offsets / sizes.view(self.levels, 1, 2)
        if self.sampling == "gather_sum" or (
            self.sampling == "auto" and query.device.type == "cpu" and not torch.is_grad_enabled()
        ):
            sampled = sample_with_gather_sum(value, shapes, locations, weights)
        else:
            sampled = sample_with_grid_sample(value, shapes, locations, weights)
        attended: Tensor = self.output_proj(sampled)
        return attended


class DeformableEncoderLayer(nn.Module):
    """Deformable attention and a feed-forward net, each with a residual and a layer norm after it (post-norm)."""

    def __init__(self, channels: int, levels: int, heads: int, points: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(channels, levels, heads, points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, channels)
        self.norm2 = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "N C"],
        references: Float[Tensor, "N 2"],
        shapes: SpatialShapes,
    ) -> Float[Tensor, "B N C"]:
        """One encoder layer; ``positions`` already hold the level embedding."""
        attended = self.self_attn(tokens + positions, tokens, references, shapes)
        tokens = self.norm1(tokens + attended)
        expanded = self.linear2(F.relu(self.linear1(tokens)))
        normed: Tensor = self.norm2(tokens + expanded)
        return normed


class DeformableEncoder(nn.Module):
    """A stack of encoder layers that can be left after any of them."""

    def __init__(self, channels: int, levels: int, heads: int, points: int, feedforward_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(channels, levels, heads, points, feedforward_dim) for _ in range(layers)
        )

    def forward(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "N C"],
        shapes: SpatialShapes,
        exit_depths: Sequence[int],
    ) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens after each wanted depth, in the order asked; layers up to the deepest run once.

        Args:
            exit_depths: Encoder layers run, each from 1 to the number of layers.

        Raises:
            ValueError: If a depth is outside 1..layers.
        """
        self._check_depths(exit_depths)
        references = reference_points(shapes, tokens.device)
        after: dict[int, Tensor] = {}
        for depth, layer in enumerate(self.layers[: max(exit_depths)], start=1):
            tokens = layer(tokens, positions, references, shapes)
            after[depth] = tokens
        return tuple(after[depth] for depth in exit_depths)

    def forward_per_image(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "N C"],
        shapes: SpatialShapes,
        depths: Int[Tensor, " B"],
    ) -> Float[Tensor, "B N C"]:
        """Each image's tokens after its own depth; an image leaves the batch as soon as it is done."""
        wanted = depths.tolist()
        self._check_depths(wanted)
        references = reference_points(shapes, tokens.device)
        # Deepest images first, so that those still running are always a leading slice.
        order = sorted(range(len(wanted)), key=lambda image: -wanted[image])
        running = tokens[order]
        done: list[Tensor] = [tokens[:0]] * len(wanted)
        for depth, layer in enumerate(self.layers[: max(wanted)], start=1):
            count = sum(depth <= wanted[image] for image in order)
            running = layer(running[:count], positions, references, shapes)
            for row, image in enumerate(order[:count]):
                if wanted[image] == depth:
                    done[image] = running[row]
        return torch.stack(done)

    def _check_depths(self, depths: Sequence[int]) -> None:
        outside = [depth for depth in depths if not 1 <= depth <= len(self.layers)]
        if outside or not depths:
            raise ValueError(
                f"exit depths {list(depths)} asked of an encoder with {len(self.layers)} layers; "
                f"give at least one depth, each from 1 to {len(self.layers)}"
            )
