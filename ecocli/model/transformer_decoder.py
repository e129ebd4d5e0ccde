"""Masked-attention transformer decoder, shared by all exits.

Shapes: B images, Q queries, C channels, K classes, N tokens of one level, S supervised predictions (raw queries first).
Source: Mask2Former (arXiv 2112.01527, section 3.2), modeling/transformer_decoder/
mask2former_transformer_decoder.py (9b0651c); state-dict names are the original's.
Differences: the attention mask is kept per image and query instead of being copied for every head.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.model.deformable import SpatialShapes
from ecocli.model.layers import sine_positions


class Attention(nn.Module):
    """Multi-head attention with packed projections, as ``nn.MultiheadAttention`` names and stores them."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B N C"],
        value: Float[Tensor, "B N C"],
        blocked_mask: Bool[Tensor, " B #Q N"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """Scaled dot-product attention.

        Args:
            blocked_mask: True where a query must not look, one row for all queries or one each; no row may be
                True throughout.
        """
        B, Q, C = query.shape
        weight_q, weight_k, weight_v = self.in_proj_weight.chunk(3)
        bias_q, bias_k, bias_v = self.in_proj_bias.chunk(3)

        def heads_of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.linear(x, weight, bias).view(B, -1, self.heads, C // self.heads).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            heads_of(query, weight_q, bias_q),
            heads_of(key, weight_k, bias_k),
            heads_of(value, weight_v, bias_v),
            attn_mask=None if blocked_mask is None else ~blocked_mask[:, None],
        )
        out: Tensor = self.out_proj(attended.transpose(1, 2).reshape(B, Q, C))
        return out


class CrossAttentionLayer(nn.Module):
    """Queries look at one level's tokens, only where their last mask allows it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        query_positions: Float[Tensor, "Q C"],
        key: Float[Tensor, "B N C"],
        memory: Float[Tensor, "B N C"],
        blocked_mask: Bool[Tensor, "B Q N"],
    ) -> Float[Tensor, "B Q C"]:
        """Masked cross-attention, residual, norm; ``key`` is the memory with its positions."""
        attended = self.multihead_attn(queries + query_positions, key, memory, blocked_mask)
        normed: Tensor = self.norm(queries + attended)
        return normed


class SelfAttentionLayer(nn.Module):
    """Queries look at each other."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, queries: Float[Tensor, "B Q C"], query_positions: Float[Tensor, "Q C"]) -> Float[Tensor, "B Q C"]:
        """Self-attention, residual, norm."""
        positioned = queries + query_positions
        normed: Tensor = self.norm(queries + self.self_attn(positioned, positioned, queries))
        return normed


class FeedForwardLayer(nn.Module):
    """Two linear layers with a ReLU between, residual, norm."""

    def __init__(self, channels: int, feedforward_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, queries: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q C"]:
        """Expand, project back, add."""
        normed: Tensor = self.norm(queries + self.linear2(F.relu(self.linear1(queries))))
        return normed


class MaskEmbedding(nn.Module):
    """Three linear layers from a query to its mask kernel, or to its box."""

    def __init__(self, channels: int, mask_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            (nn.Linear(channels, channels), nn.Linear(channels, channels), nn.Linear(channels, mask_dim))
        )

    def forward(self, queries: Float[Tensor, "*lead Q C"]) -> Float[Tensor, "*lead Q Cm"]:
        """Query to mask kernel."""
        first, second, last = self.layers
        kernel: Tensor = last(F.relu(second(F.relu(first(queries)))))
        return kernel


class TransformerDecoder(nn.Module):
    """Masked-attention decoder.

    Args:
        hidden_dim: C.
        mask_dim: Channels of the mask features.
        num_classes: K, without "no object".
        num_queries: Q.
        layers: Decoder layers; each takes the next of the three levels in turn.
    """

    num_levels = 3

    def __init__(
        self,
        hidden_dim: int,
        mask_dim: int,
        num_classes: int,
        num_queries: int,
        layers: int,
        heads: int,
        feedforward_dim: int,
    ) -> None:
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, heads) for _ in range(layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, heads) for _ in range(layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(hidden_dim, feedforward_dim) for _ in range(layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(self.num_levels, hidden_dim)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MaskEmbedding(hidden_dim, mask_dim)

    def forward(
        self,
        memories: Sequence[Float[Tensor, "B _n C"]],
        shapes: SpatialShapes,
        mask_features: Float[Tensor, "B Cm H4 W4"],
    ) -> tuple[Float[Tensor, "S B Q K1"], Float[Tensor, "S B Q H4 W4"]]:
        """Queries to the class logits and mask logits of the raw queries and after every layer.

        Args:
            memories: Encoded tokens of the levels with stride 32, 16, 8.
            shapes: Height and width of those levels, in cells.
            mask_features: Per-pixel embeddings at stride 4.

        Returns:
            ``pred_logits`` with "no object" last, and ``pred_masks``, the final prediction last.
        """
        levels = self._levels(memories, shapes)
        queries = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)
        all_logits: list[Tensor] = []
        all_masks: list[Tensor] = []
        for index in range(len(self.transformer_ffn_layers) + 1):
            normed = self.decoder_norm(queries)
            masks = _product(self.mask_embed(normed), mask_features)
            all_logits.append(self.class_embed(normed))
            all_masks.append(masks)
            if index < len(self.transformer_ffn_layers):
                blocked = _blocked(_resized(masks.detach(), shapes[index % self.num_levels]))
                queries = self._layer(index, queries, levels, blocked)
        return torch.stack(all_logits), torch.stack(all_masks)

    def forward_last(
        self,
        memories: Sequence[Float[Tensor, "B _n C"]],
        shapes: SpatialShapes,
        fused: Float[Tensor, "B C H4 W4"],
        mask_projection: nn.Conv2d,
    ) -> tuple[Float[Tensor, "1 B Q K1"], Float[Tensor, "1 B Q H4 W4"]]:
        """The final prediction alone, with less work: what nobody sees is not computed at full size.

        The projection to mask features goes into the queries' few kernels instead of the many pixels. Resizing and
        the product with the kernels commute, so the features are resized once, and the masks of the layers before
        are computed at their level's cells only.

        Args:
            memories: Encoded tokens of the levels with stride 32, 16, 8.
            shapes: Height and width of those levels, in cells.
            fused: What ``mask_projection`` makes the mask features of.
            mask_projection: The pixel decoder's last 1 x 1 convolution.
        """
        levels = self._levels(memories, shapes)
        resized = [_resized(fused, size) for size in shapes]
        queries = self.query_feat.weight.expand(fused.shape[0], -1, -1)
        for index in range(len(self.transformer_ffn_layers)):
            masks = self._projected_masks(self.decoder_norm(queries), resized[index % self.num_levels], mask_projection)
            queries = self._layer(index, queries, levels, _blocked(masks))
        normed = self.decoder_norm(queries)
        return self.class_embed(normed)[None], self._projected_masks(normed, fused, mask_projection)[None]

    def _levels(
        self, memories: Sequence[Float[Tensor, "B _n C"]], shapes: SpatialShapes
    ) -> list[tuple[Float[Tensor, "B _n C"], Float[Tensor, "B _n C"]]]:
        """What is attended to on every level: keys, with positions, and values."""
        levels = []
        for memory, (height, width), embedding in zip(memories, shapes, self.level_embed.weight, strict=True):
            source = memory + embedding
            positions = sine_positions(height, width, memory.shape[-1], memory.device, torch.float32)
            levels.append((source + positions, source))
        return levels

    def _layer(
        self, index: int, queries: Float[Tensor, "B Q C"], levels: Sequence[tuple[Tensor, Tensor]], blocked: Tensor
    ) -> Float[Tensor, "B Q C"]:
        query_positions = self.query_embed.weight
        key, source = levels[index % self.num_levels]
        queries = self.transformer_cross_attention_layers[index](queries, query_positions, key, source, blocked)
        queries = self.transformer_self_attention_layers[index](queries, query_positions)
        after: Tensor = self.transformer_ffn_layers[index](queries)
        return after

    def _projected_masks(
        self, normed: Float[Tensor, "B Q C"], fused: Float[Tensor, "B C H W"], mask_projection: nn.Conv2d
    ) -> Float[Tensor, "B Q H W"]:
        kernel = self.mask_embed(normed)
        assert mask_projection.bias is not None
        shift: Tensor = kernel @ mask_projection.bias
        return _product(kernel @ mask_projection.weight.flatten(1), fused).add_(shift[..., None, None])


def _product(kernel: Float[Tensor, "B Q C"], maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B Q H W"]:
    pixels = maps.flatten(2)
    # In bfloat16 the batched product copies maps whose channels lie last, which takes ten times the product itself.
    products = F.linear(kernel[0], pixels[0].t())[None] if len(kernel) == 1 else torch.bmm(kernel, pixels)
    return products.view(*kernel.shape[:2], *maps.shape[2:])


def _resized(maps: Float[Tensor, "B C H4 W4"], size: tuple[int, int]) -> Float[Tensor, "B C H W"]:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def _blocked(masks: Float[Tensor, "B Q H W"]) -> Bool[Tensor, "B Q N"]:
    """Where a query must not look: outside its last mask, unless that blocks everything."""
    # A logit below 0 is a probability below 0.5.
    blocked = masks.flatten(2) < 0
    return blocked & ~blocked.all(-1, keepdim=True)
