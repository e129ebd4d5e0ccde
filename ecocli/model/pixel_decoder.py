"""Pixel decoder: backbone maps to tokens, encoder layers with exits, then mask features at stride 4.

Shapes: B images, N tokens, C channels (hidden), H4 W4 cells at stride 4.
Source: Mask2Former, modeling/pixel_decoder/msdeformattn.py (9b0651c); state-dict names are the original's. Difference:
the work is cut into three steps, ``project`` (once per image), ``encode`` (once, up to the deepest exit) and
``fuse_levels`` (once per exit), so that exits share all that can be shared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.model.exit_encoder import ExitEncoder
from ecocli.model.layers import NormedConv2d
from ecocli.model.sampling import SpatialShapes


@dataclass(frozen=True)
class Features:
    """What every exit of a batch shares.

    Attributes:
        maps: Backbone outputs ``res2`` (stride 4) to ``res5`` (stride 32).
        tokens: Projected tokens before the encoder, levels in the order stride 32, 16, 8.
        shapes: Height and width of each of those levels, in cells.
        lateral: ``res2`` projected for the stride-4 step.
    """

    maps: Mapping[str, Float[Tensor, "B _c _h _w"]]
    tokens: Float[Tensor, "B N C"]
    shapes: SpatialShapes
    lateral: Float[Tensor, "B C H4 W4"]

    stride: ClassVar[int] = 32
    padding_mask: ClassVar[None] = None


class _EncoderWithLevels(nn.Module):
    """The encoder and the level embedding beside it (a level of naming in published state dicts)."""

    level_embed: nn.Parameter | None

    def __init__(self, encoder: ExitEncoder, levels: int, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.level_embed = nn.Parameter(torch.empty(levels, channels)) if encoder.embeds_levels else None
        if self.level_embed is not None:
            nn.init.normal_(self.level_embed)


def grouped_projection(in_channels: int, channels: int) -> nn.Sequential:
    """Mask2Former's projection of a backbone map."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.GroupNorm(32, channels))


class PixelDecoder(nn.Module):
    """Multi-scale deformable pixel decoder.

    Args:
        in_channels: Width of ``res2`` .. ``res5``.
        hidden_dim: C.
        mask_dim: Channels of the mask features.
        build_encoder: Makes the encoder of tokens of width C and L levels.
        build_projection: Makes what projects a map of the backbone to width C.
    """

    # Coarsest first: the order of levels in the token sequence.
    level_names = ("res5", "res4", "res3")

    def __init__(
        self,
        in_channels: Mapping[str, int],
        hidden_dim: int,
        mask_dim: int,
        build_encoder: Callable[[int, int], ExitEncoder],
        build_projection: Callable[[int, int], nn.Module] = grouped_projection,
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.input_proj = nn.ModuleList(build_projection(in_channels[name], hidden_dim) for name in self.level_names)
        for convolution in self.input_proj.modules():
            if isinstance(convolution, nn.Conv2d):
                nn.init.xavier_uniform_(convolution.weight)
                if convolution.bias is not None:
                    nn.init.zeros_(convolution.bias)
        levels = len(self.level_names)
        self.transformer = _EncoderWithLevels(build_encoder(hidden_dim, levels), levels, hidden_dim)
        self.mask_features = nn.Conv2d(hidden_dim, mask_dim, 1)
        self.adapter_1 = NormedConv2d(in_channels["res2"], hidden_dim, 1, nn.GroupNorm(32, hidden_dim))
        self.layer_1 = NormedConv2d(hidden_dim, hidden_dim, 3, nn.GroupNorm(32, hidden_dim))
        for convolution in (self.mask_features, self.adapter_1, self.layer_1):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        assert self.mask_features.bias is not None
        nn.init.zeros_(self.mask_features.bias)

    @property
    def encoder(self) -> ExitEncoder:
        """The transformer encoder whose layers exits skip."""
        return self.transformer.encoder

    def project(self, maps: Mapping[str, Float[Tensor, "B _c _h _w"]]) -> Features:
        """Project backbone maps to tokens: the part that all exits share."""
        levels = [projection(maps[name]) for name, projection in zip(self.level_names, self.input_proj, strict=True)]
        shapes = tuple((level.shape[2], level.shape[3]) for level in levels)
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        return Features(maps, tokens, shapes, self.adapter_1(maps["res2"]))

    def positions(self, shapes: SpatialShapes) -> Float[Tensor, "positioned C"]:
        """Position of every token that has one, as the encoder adds it."""
        return self.encoder.positions(shapes, self.transformer.level_embed)

    def encode(
        self, tokens: Float[Tensor, "B N C"], shapes: SpatialShapes, exit_depths: Sequence[int]
    ) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens at each wanted exit; the encoder runs once, up to the deepest."""
        encoded: tuple[Tensor, ...] = self.encoder(tokens, self.positions(shapes), shapes, exit_depths)
        return encoded

    def encode_each(
        self, tokens: Float[Tensor, "B N C"], shapes: SpatialShapes, depths: Int[Tensor, " B"]
    ) -> Float[Tensor, "B N C"]:
        """Each image's tokens at its own exit; images leave the encoder as they are done."""
        return self.encoder.forward_per_image(tokens, self.positions(shapes), shapes, depths)

    def split(self, tokens: Float[Tensor, "B N C"], shapes: SpatialShapes) -> tuple[Float[Tensor, "B _n C"], ...]:
        """The tokens of each level: the decoder's memories."""
        return torch.split(tokens, [h * w for h, w in shapes], dim=1)

    def fuse_levels(
        self,
        tokens: Float[Tensor, "B N C"],
        shapes: SpatialShapes,
        lateral: Float[Tensor, "images C H4 W4"],
    ) -> tuple[Float[Tensor, "B C H4 W4"], tuple[Float[Tensor, "B _n C"], ...]]:
        """Encoded tokens to what ``mask_features`` projects, and the decoder's three memories.

        Args:
            tokens: May hold several exits of the batch one after the other.
            shapes: Height and width of every level, in cells.
            lateral: ``res2`` projected, of the batch once.

        Returns:
            The fused map at stride 4, and the tokens of each level (stride 32, 16, 8).
        """
        memories = self.split(tokens, shapes)
        # Tokens seen as a map have channels last; the rest keeps that order, which CPU kernels run best in.
        finest = memories[-1].view(len(tokens), *shapes[-1], -1).permute(0, 3, 1, 2)
        upsampled = F.interpolate(finest, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        upsampled.view(-1, *lateral.shape).add_(lateral)
        return F.relu_(self.layer_1(upsampled)), memories
