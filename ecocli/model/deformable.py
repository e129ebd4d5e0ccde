"""Multi-scale deformable attention and the transformer encoder built on it, in pure PyTorch.

Shapes: B images, N tokens (levels in the order stride 32, 16, 8, each row-major), C channels, M heads, L levels,
P points per level, S = M L P samples of a query.
Source: Deformable DETR (arXiv 2010.04159) as used by Mask2Former (modeling/pixel_decoder/msdeformattn.py, 9b0651c);
state-dict names are the original's. Differences: padding is never masked (as in Mask2Former), so reference points are
plain cell centres, computed once per size; no compiled operator (see ``ecocli.model.sampling``); the encoder yields the
tokens of any set of depths; without gradients on a CPU, a layer runs in tiles of tokens whose intermediate results fit
the cache.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.model.sampling import (
    SamplingTable,
    SpatialShapes,
    corners_of,
    empty_rows,
    fill_rows,
    sample_with_gather_sum,
    sample_with_grid_sample,
    sampling_table,
    sum_corners,
)

__all__ = ["DeformableAttention", "DeformableEncoder", "DeformableEncoderLayer", "SpatialShapes"]

SamplingMethod = Literal["auto", "grid_sample", "gather_sum"]

# Tokens of one tile: its intermediate results (4 MiB at most at the published sizes) stay in the caches.
TILE_TOKENS = 1024


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

    def table(self, shapes: SpatialShapes, device: torch.device) -> SamplingTable:
        """Constants of these level sizes."""
        return sampling_table(shapes, self.heads, self.points, device)

    def gathers(self, tokens: Tensor) -> bool:
        """Whether these tokens are sampled by gather-sum: on a CPU, unless told otherwise; it computes in float32."""
        if self.sampling == "auto":
            return tokens.device.type == "cpu" and tokens.dtype in (torch.float32, torch.bfloat16)
        return self.sampling == "gather_sum"

    def projection(self) -> tuple[Float[Tensor, "S3 C"], Float[Tensor, " S3"]]:
        """Weight and bias of offsets and logits in one, in blocks: x offsets, y offsets, attention logits."""
        offsets, logits = self.sampling_offsets, self.attention_weights
        samples = self.heads * self.levels * self.points
        weight = offsets.weight.view(samples, 2, -1).transpose(0, 1).reshape(2 * samples, -1)
        bias = offsets.bias.view(samples, 2).transpose(0, 1).reshape(-1)
        return torch.cat((weight, logits.weight)), torch.cat((bias, logits.bias))

    def forward(
        self,
        query: Float[Tensor, "B N C"],
        value_source: Float[Tensor, "B N C"],
        shapes: SpatialShapes,
    ) -> Float[Tensor, "B N C"]:
        """Attend from every token of ``query`` (positions added) to ``value_source`` (positions not added).

        Args:
            query: Tokens with their position and level embedding.
            value_source: Tokens to sample from.
            shapes: Height and width of every level, in cells.
        """
        value = self.value_proj(value_source).unflatten(-1, (self.heads, -1))
        projected = F.linear(query, *self.projection())
        sample = sample_with_gather_sum if self.gathers(value) else sample_with_grid_sample
        attended: Tensor = self.output_proj(sample(value, projected, self.table(shapes, query.device)))
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
        shapes: SpatialShapes,
        padded: Float[Tensor, "images M R D"] | None = None,
    ) -> Float[Tensor, "B N C"]:
        """One encoder layer.

        Args:
            tokens: Its input.
            positions: Sine positions and level embedding.
            shapes: Height and width of every level, in cells.
            padded: Memory of an ``empty_rows`` to sample from, as ``make_workspace`` gives it; its content is lost.
        """
        if padded is not None:
            return self._forward_in_tiles(tokens, positions, shapes, padded)
        attended = self.self_attn(tokens + positions, tokens, shapes)
        tokens = self.norm1(tokens + attended)
        expanded = self.linear2(F.relu(self.linear1(tokens)))
        normed: Tensor = self.norm2(tokens + expanded)
        return normed

    def make_workspace(
        self, tokens: Float[Tensor, "B N C"], shapes: SpatialShapes
    ) -> Float[Tensor, "images M R D"] | None:
        """Memory that lets layers run in tiles, for as many images as fit a tile; None where they run as a whole."""
        if torch.is_grad_enabled() or not self.self_attn.gathers(tokens):
            return None
        B, N, C = tokens.shape
        table = self.self_attn.table(shapes, tokens.device)
        return empty_rows(min(B, max(1, TILE_TOKENS // N)), self.self_attn.heads, C, table)

    def _forward_in_tiles(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "N C"],
        shapes: SpatialShapes,
        padded: Float[Tensor, "images M R D"],
    ) -> Float[Tensor, "B N C"]:
        """A few images and tokens at a time, so that what lies between the products stays in the cache."""
        attention = self.self_attn
        table = attention.table(shapes, tokens.device)
        projection = attention.projection()
        out = torch.empty_like(tokens)
        for first in range(0, len(tokens), len(padded)):
            group, group_out = tokens[first : first + len(padded)], out[first : first + len(padded)]
            values = padded[: len(group)]
            fill_rows(values, group, attention.value_proj, table, TILE_TOKENS)
            for start in range(0, tokens.shape[1], TILE_TOKENS):
                tile = slice(start, start + TILE_TOKENS)
                own = group[:, tile]
                projected = F.linear(own + positions[tile], *projection)
                corners = corners_of(projected, table.centres[tile], table, attention.heads)
                attended = self.norm1(own + attention.output_proj(sum_corners(values, corners)))
                group_out[:, tile] = self.norm2(attended.add_(self.linear2(F.relu_(self.linear1(attended)))))
        return out


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
        workspace = self._workspace(tokens, shapes)
        after: dict[int, Tensor] = {}
        for depth, layer in enumerate(self.layers[: max(exit_depths)], start=1):
            tokens = layer(tokens, positions, shapes, workspace)
            if depth in exit_depths:
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
        # Deepest images first, so that those still running are always a leading slice.
        order = sorted(range(len(wanted)), key=lambda image: -wanted[image])
        running = tokens[order]
        workspace = self._workspace(tokens, shapes)
        done: list[Tensor] = [tokens[:0]] * len(wanted)
        for depth, layer in enumerate(self.layers[: max(wanted)], start=1):
            count = sum(depth <= wanted[image] for image in order)
            running = layer(running[:count], positions, shapes, workspace)
            for row, image in enumerate(order[:count]):
                if wanted[image] == depth:
                    done[image] = running[row]
        return torch.stack(done)

    def _workspace(self, tokens: Tensor, shapes: SpatialShapes) -> Tensor | None:
        first = self.layers[0]
        assert isinstance(first, DeformableEncoderLayer)
        return first.make_workspace(tokens, shapes)

    def _check_depths(self, depths: Sequence[int]) -> None:
        outside = [depth for depth in depths if not 1 <= depth <= len(self.layers)]
        if outside or not depths:
            raise ValueError(
                f"exit depths {list(depths)} asked of an encoder with {len(self.layers)} layers; "
                f"give at least one depth, each from 1 to {len(self.layers)}"
            )
