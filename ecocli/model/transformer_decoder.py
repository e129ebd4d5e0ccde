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
        blocked_mask: Bool[Tensor, "B Q N"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """Scaled dot-product attention.

        Args:
            blocked_mask: True where a query must not look; no row may be True throughout.
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
    """Three linear layers from a query to its mask kernel."""

    def __init__(self, channels: int, mask_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            (nn.Linear(channels, channels), nn.Linear(channels, channels), nn.Linear(channels, mask_dim))
        )

    def forward(self, queries: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q Cm"]:
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
        heads: Attention heads.
        feedforward_dim: Width of the feed-forward nets.
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
        all_layers: bool,
    ) -> tuple[Float[Tensor, "S B Q K1"], Float[Tensor, "S B Q H4 W4"]]:
        """Queries to class logits and mask logits.

        Args:
            memories: Encoded tokens of the levels with stride 32, 16, 8.
            shapes: Height and width of those levels, in cells.
            mask_features: Per-pixel embeddings at stride 4.
            all_layers: Whether to return the predictions of the raw queries and of every layer, or the last only.

        Returns:
            ``pred_logits`` with "no object" last, and ``pred_masks``, the final prediction last.
        """
        B = mask_features.shape[0]
        keys, sources = [], []
        for level, (memory, (height, width)) in enumerate(zip(memories, shapes, strict=True)):
            source = memory + self.level_embed.weight[level]
            sources.append(source)
            keys.append(source + sine_positions(height, width, memory.shape[-1], memory.device, torch.float32))
        # Resizing and the product with the queries commute. Where nobody asks for a layer's masks, the features are
        # resized once and each layer's mask is computed at its level's few cells only.
        level_features = [] if all_layers else [_resized(mask_features, size) for size in shapes]
        query_positions = self.query_embed.weight
        queries = self.query_feat.weight.expand(B, -1, -1)
        layers = len(self.transformer_ffn_layers)
        all_logits: list[Tensor] = []
        all_masks: list[Tensor] = []
        for index in range(layers + 1):
            last = index == layers
            level = index % self.num_levels
            normed = self.decoder_norm(queries)
            if all_layers or last:
                masks = self._masks(normed, mask_features)
                all_logits.append(self.class_embed(normed))
                all_masks.append(masks)
            if last:
                break
            blocked = _blocked(
                _resized(masks.detach(), shapes[level]) if all_layers else self._masks(normed, level_features[level])
            )
            queries = self.transformer_cross_attention_layers[index](
                queries, query_positions, keys[level], sources[level], blocked
            )
            queries = self.transformer_self_attention_layers[index](queries, query_positions)
            queries = self.transformer_ffn_layers[index](queries)
        return torch.stack(all_logits), torch.stack(all_masks)

    def _masks(
        self, normed: Float[Tensor, "B Q C"], mask_features: Float[Tensor, "B Cm H4 W4"]
    ) -> Float[Tensor, "B Q H4 W4"]:
        kernel = self.mask_embed(normed)
        masks = torch.bmm(kernel, mask_features.flatten(2))
        return masks.view(*masks.shape[:2], *mask_features.shape[2:])


def _resized(maps: Float[Tensor, "B C H4 W4"], size: tuple[int, int]) -> Float[Tensor, "B C H W"]:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def _blocked(masks: Float[Tensor, "B Q H W"]) -> Bool[Tensor, "B Q N"]:
    """Where a query must not look: outside its last mask, unless that blocks everything."""
    # A logit below 0 is a probability below 0.5.
    blocked = masks.flatten(2) < 0
    return blocked & ~blocked.all(-1, keepdim=True)
