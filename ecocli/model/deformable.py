"""Multi-scale deformable attention and the transformer encoder built on it, in pure PyTorch.

Shapes: B images, N tokens (levels in the order stride 32, 16, 8, each row-major), C channels, M heads, L levels,
P points per level, S = M L P samples of a query.
Source: Deformable DETR (arXiv 2010.04159) as used by Mask2Former (modeling/pixel_decoder/msdeformattn.py, 9b0651c), and
its interleaved form of Lite-DETR (arXiv 2303.07335; IDEA-Research/Lite-DETR at 6392353), here with Mask2Former's levels
and token order; state-dict names are the originals'. Differences: padding is never masked (as in Mask2Former), so
reference points are plain cell centres, computed once per size; no compiled operator (see ``ecocli.model.sampling``);
the encoder yields the tokens of any set of exits; without gradients on a CPU, a layer runs in tiles of tokens whose
intermediate results fit the cache.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.exits import ExitPlan
from ecocli.model.exit_encoder import ExitEncoder, RunLayer
from ecocli.model.layers import sine_positions
from ecocli.model.sampling import (
    SamplingTable,
    SpatialShapes,
    corners_of,
    empty_rows,
    fill_rows,
    sample_by_level,
    sample_centres,
    sample_with_gather_sum,
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

    def centres(self, query: Float[Tensor, "B Nq C"], shapes: SpatialShapes) -> Float[Tensor, "Nq S2"]:
        """Where the samples of the first tokens fall before their offsets."""
        # In a graph the level sizes are symbols, of which no whole table can be made.
        if torch.compiler.is_exporting():
            return sample_centres(shapes, self.heads, self.points, query.device)[: query.shape[1]]
        return self.table(shapes, query.device).of_first(query.shape[1]).centres

    def gathers(self, tokens: Tensor) -> bool:
        """Whether these tokens are sampled by gather-sum: on a CPU, unless told otherwise; it computes in float32.

        Other runtimes have ``grid_sample``, so an exported graph does.
        """
        if self.sampling == "auto":
            on_cpu = tokens.device.type == "cpu" and tokens.dtype in (torch.float32, torch.bfloat16)
            return on_cpu and not torch.compiler.is_exporting()
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
        query: Float[Tensor, "B Nq C"],
        value_source: Float[Tensor, "B N C"],
        shapes: SpatialShapes,
    ) -> Float[Tensor, "B Nq C"]:
        """Attend from every token of ``query`` (positions added) to ``value_source`` (positions not added).

        Args:
            query: The first tokens, all or some, with their position and level embedding.
            value_source: Tokens to sample from.
            shapes: Height and width of every level, in cells.
        """
        value = self.value_proj(value_source).unflatten(-1, (self.heads, -1))
        projected = F.linear(query, *self.projection())
        if self.gathers(value):
            table = self.table(shapes, query.device).of_first(query.shape[1])
            sampled = sample_with_gather_sum(value, projected, table)
        else:
            sampled = sample_by_level(value, projected, shapes, self.centres(query, shapes))
        attended: Tensor = self.output_proj(sampled)
        return attended


class DeformableEncoderLayer(nn.Module):
    """Deformable attention and a feed-forward net, each with a residual and a layer norm after it (post-norm).

    Args:
        channels: C.
        levels: L.
        points: Sampling points per head and level.
        updated_levels: How many of the coarsest levels the layer updates; it samples from all levels, and the tokens
            of the others pass through unchanged.
        small_ffn_from: First level whose tokens take the second, narrow feed-forward net (``linear12``, ``linear22``,
            ``norm22``); None where there is no such net.
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        heads: int,
        points: int,
        feedforward_dim: int,
        updated_levels: int | None = None,
        small_ffn_from: int | None = None,
    ) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(channels, levels, heads, points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, channels)
        self.norm2 = nn.LayerNorm(channels)
        linears = [self.linear1, self.linear2]
        if small_ffn_from is not None:
            self.linear12 = nn.Linear(channels, channels)
            self.linear22 = nn.Linear(channels, channels)
            self.norm22 = nn.LayerNorm(channels)
            linears += [self.linear12, self.linear22]
        for linear in linears:
            nn.init.xavier_uniform_(linear.weight)
        self.updated_levels = levels if updated_levels is None else updated_levels
        self.small_ffn_from = small_ffn_from

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
        updated = _tokens_of(shapes[: self.updated_levels])
        # A slice of all tokens would add up their gradients in another order.
        own = tokens if updated == tokens.shape[1] else tokens[:, :updated]
        attended = self.norm1(own + self.self_attn(own + positions[:updated], tokens, shapes))
        parts = [self._feed_forward(attended[:, span], small) for span, small in self._spans(shapes)]
        if updated < tokens.shape[1]:
            parts.append(tokens[:, updated:])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _spans(self, shapes: SpatialShapes) -> list[tuple[slice, bool]]:
        """Which of the updated tokens take which feed-forward net: ranges, and whether it is the small one."""
        updated = _tokens_of(shapes[: self.updated_levels])
        if self.small_ffn_from is None:
            return [(slice(0, updated), False)]
        border = _tokens_of(shapes[: self.small_ffn_from])
        return [(slice(0, border), False), (slice(border, updated), True)]

    def _feed_forward(self, attended: Float[Tensor, "B n C"], small: bool) -> Float[Tensor, "B n C"]:
        first, second, norm = (
            (self.linear12, self.linear22, self.norm22) if small else (self.linear1, self.linear2, self.norm2)
        )
        normed: Tensor = norm(attended + second(F.relu_(first(attended))))
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
        updated = _tokens_of(shapes[: self.updated_levels])
        out[:, updated:] = tokens[:, updated:]
        for first in range(0, len(tokens), len(padded)):
            group, group_out = tokens[first : first + len(padded)], out[first : first + len(padded)]
            values = padded[: len(group)]
            fill_rows(values, group, attention.value_proj, table, TILE_TOKENS)
            for span, small in self._spans(shapes):
                for start in range(span.start, span.stop, TILE_TOKENS):
                    tile = slice(start, min(start + TILE_TOKENS, span.stop))
                    own = group[:, tile]
                    projected = F.linear(own + positions[tile], *projection)
                    corners = corners_of(projected, table.centres[tile], table, attention.heads)
                    attended = self.norm1(own + attention.output_proj(sum_corners(values, corners)))
                    group_out[:, tile] = self._feed_forward(attended, small)
        return out


def _tokens_of(shapes: SpatialShapes) -> int:
    return sum(height * width for height, width in shapes)


def level_positions(shapes: SpatialShapes, level_embed: Float[Tensor, "L C"]) -> Float[Tensor, "N C"]:
    """Sine position plus learned level embedding of every token."""
    return torch.cat(
        [
            sine_positions(h, w, level_embed.shape[1], level_embed.device, torch.float32) + embedding
            for (h, w), embedding in zip(shapes, level_embed, strict=True)
        ]
    )


class DeformableEncoder(ExitEncoder):
    """A stack of encoder layers that can be left at its exits.

    Args:
        channels: C.
        levels: L.
        points: Sampling points per head and level.
        exits: Number of layers, and which of them each exit runs.
        updated_levels: Coarsest levels that the layers before the exits' tail update; None for all of them.
        small_ffn: Whether the tail's layers have a second, narrow feed-forward net for the other levels' tokens.
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        heads: int,
        points: int,
        feedforward_dim: int,
        exits: ExitPlan,
        updated_levels: int | None = None,
        small_ffn: bool = False,
    ) -> None:
        layers = (
            DeformableEncoderLayer(
                channels,
                levels,
                heads,
                points,
                feedforward_dim,
                updated_levels=None if index in exits.tail else updated_levels,
                small_ffn_from=updated_levels if small_ffn and index in exits.tail else None,
            )
            for index in range(exits.layers)
        )
        super().__init__(exits, layers)

    def positions(self, shapes: SpatialShapes, level_embed: Float[Tensor, "L C"] | None) -> Float[Tensor, "N C"]:
        """Sine position plus learned level embedding of every token."""
        assert level_embed is not None
        return level_positions(shapes, level_embed)

    def runner(
        self, tokens: Float[Tensor, "B N C"], positions: Float[Tensor, "N C"], shapes: SpatialShapes
    ) -> RunLayer:
        """Its layers share memory to sample from."""
        first = self.layers[0]
        assert isinstance(first, DeformableEncoderLayer)
        workspace = first.make_workspace(tokens, shapes)

        def run(index: int, running: Tensor, _images: Sequence[int]) -> Tensor:
            after: Tensor = self.layers[index](running, positions, shapes, workspace)
            return after

        return run
