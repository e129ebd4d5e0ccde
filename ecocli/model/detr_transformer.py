"""DETR's transformer: an encoder over one map that can be left after any layer, and the decoder all exits share.

Shapes: B images, N tokens of the map, Q queries, C channels, D decoder layers.
Source: DETR (arXiv 2005.12872), models/transformer.py (29901c5), post-norm; state-dict names are the original's. Layers
are post-norm and nothing follows the encoder's last one, so an exit needs no norm of its own. MaskFormer's encoder and
decoder are the same. Difference: dropout is left out.
"""

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.exits import ExitPlan
from ecocli.model.exit_encoder import RunLayer, run_each, run_exits
from ecocli.model.transformer_decoder import Attention


class _FeedForward(nn.Module):
    """Two linear layers with a ReLU between; a base, because the original keeps them beside the attention."""

    def __init__(self, channels: int, feedforward_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, channels)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def _expand(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        expanded: Tensor = self.linear2(F.relu(self.linear1(x)))
        return expanded


class EncoderLayer(_FeedForward):
    """Self-attention over the map, feed-forward, each with residual and norm."""

    def __init__(self, channels: int, heads: int, feedforward_dim: int) -> None:
        super().__init__(channels, feedforward_dim)
        self.self_attn = Attention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "#B N C"],
        padding_mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B N C"]:
        """One layer; tokens that are padding are not looked at."""
        positioned = tokens + positions
        blocked = None if padding_mask is None else padding_mask[:, None]
        tokens = self.norm1(tokens + self.self_attn(positioned, positioned, tokens, blocked))
        normed: Tensor = self.norm2(tokens + self._expand(tokens))
        return normed


class TransformerEncoder(nn.Module):
    """A stack of encoder layers that can be left after any of them."""

    def __init__(self, channels: int, heads: int, feedforward_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(channels, heads, feedforward_dim) for _ in range(layers))

    @property
    def exits(self) -> ExitPlan:
        """Its exits: after any layer."""
        return ExitPlan(len(self.layers), tuple(range(1, len(self.layers) + 1)))

    def forward(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "#B N C"],
        padding_mask: Bool[Tensor, "B N"] | None,
        exit_depths: Sequence[int],
    ) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens after each wanted depth; see ``run_exits``."""
        return run_exits(self.exits, self._runner(positions, padding_mask), tokens, exit_depths)

    def forward_per_image(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "#B N C"],
        padding_mask: Bool[Tensor, "B N"] | None,
        depths: Int[Tensor, " B"],
    ) -> Float[Tensor, "B N C"]:
        """Each image's tokens after its own depth; see ``run_each``."""
        return run_each(self.exits, self._runner(positions, padding_mask), tokens, depths)

    def _runner(self, positions: Float[Tensor, "#B N C"], padding_mask: Bool[Tensor, "B N"] | None) -> RunLayer:
        def run(index: int, running: Tensor, images: Sequence[int]) -> Tensor:
            rows = list(images)
            own_positions = positions if len(positions) == 1 else positions[rows]
            after: Tensor = self.layers[index](
                running, own_positions, None if padding_mask is None else padding_mask[rows]
            )
            return after

        return run


class DecoderLayer(_FeedForward):
    """Queries look at each other, then at the map; feed-forward; each with residual and norm."""

    def __init__(self, channels: int, heads: int, feedforward_dim: int) -> None:
        super().__init__(channels, feedforward_dim)
        self.self_attn = Attention(channels, heads)
        self.multihead_attn = Attention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        query_positions: Float[Tensor, "Q C"],
        key: Float[Tensor, "B N C"],
        memory: Float[Tensor, "B N C"],
        padding_mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """One layer; ``key`` is the memory with its positions."""
        positioned = queries + query_positions
        queries = self.norm1(queries + self.self_attn(positioned, positioned, queries))
        blocked = None if padding_mask is None else padding_mask[:, None]
        queries = self.norm2(queries + self.multihead_attn(queries + query_positions, key, memory, blocked))
        normed: Tensor = self.norm3(queries + self._expand(queries))
        return normed


class QueryDecoder(nn.Module):
    """Decoder layers on queries that start at zero; one norm, shared, stands before the heads only."""

    def __init__(self, channels: int, heads: int, feedforward_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, feedforward_dim) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)

    def forward(
        self,
        query_positions: Float[Tensor, "Q C"],
        memory: Float[Tensor, "B N C"],
        positions: Float[Tensor, "#B N C"],
        padding_mask: Bool[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, "B Q C"], ...]:
        """Normalised queries after each layer."""
        key = memory + positions
        queries = memory.new_zeros(len(memory), *query_positions.shape)
        after = []
        for layer in self.layers:
            queries = layer(queries, query_positions, key, memory, padding_mask)
            after.append(queries)
        return tuple(self.norm(queries) for queries in after)


class Transformer(nn.Module):
    """Encoder and decoder (a level of naming in published state dicts)."""

    def __init__(self, encoder: TransformerEncoder, decoder: QueryDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
