"""MaskFormer with exits in its interface.

Shapes: B images, Q queries, K classes, N tokens, C channels, E exits, S supervised predictions (one per decoder layer,
the final one last; S = 1 where only the final one is asked for), H4 W4 cells at stride 4.
Source: MaskFormer (arXiv 2107.06278) as Mask2Former's repository keeps it (modeling/pixel_decoder/fpn.py and
modeling/transformer_decoder/maskformer_transformer_decoder.py, 161be51, MIT); state-dict names are the original's.

The panoptic R50 model has DETR's encoder on ``res5``, whose output is both the coarsest map of a feature pyramid to
stride 4 and the memory of DETR's decoder; exits leave that encoder after any layer. The Swin models have no encoder:
``res5`` itself takes both places, and there is one exit. Padding is no special place to either, as in the original.
Differences: no dropout; the pyramid's lateral projections run once for all exits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.exits import ExitPlan
from ecocli.model.contracts import MAPS, Backbone, ExitNetwork, Size
from ecocli.model.detr_transformer import QueryDecoder, TransformerEncoder
from ecocli.model.layers import NormedConv2d, sine_positions
from ecocli.model.mask2former import Predictions
from ecocli.model.parts import Part
from ecocli.model.transformer_decoder import MaskEmbedding


@dataclass(frozen=True)
class PyramidFeatures:
    """What every exit of a batch shares.

    Attributes:
        maps: Backbone outputs ``res2`` (stride 4) to ``res5`` (stride 32).
        tokens: ``res5`` projected, row by row.
        shapes: Height and width of that map, in cells (one level).
        laterals: ``res4``, ``res3`` and ``res2`` projected, for the pyramid.
    """

    maps: Mapping[str, Float[Tensor, "B _c _h _w"]]
    tokens: Float[Tensor, "B N C"]
    shapes: tuple[Size, ...]
    laterals: tuple[Tensor, ...]

    stride: ClassVar[int] = 32
    padding_mask: ClassVar[None] = None


class _Unchanged(nn.Module):
    """The layer of a model without encoder."""

    def forward(
        self,
        tokens: Float[Tensor, "B N C"],
        positions: Float[Tensor, "#B N C"],
        padding_mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B N C"]:
        return tokens


class _Transformer(nn.Module):
    """Encoder or decoder (a level of naming in published state dicts)."""

    def __init__(self, **part: nn.Module) -> None:
        super().__init__()
        for name, module in part.items():
            self.add_module(name, module)


class PyramidDecoder(nn.Module):
    """Encoder on the coarsest map and feature pyramid to stride 4.

    Args:
        in_channels: Width of ``res2`` .. ``res5``.
        channels: C.
        mask_dim: Channels of the mask features.
        heads: Attention heads of the encoder.
        encoder_layers: The deepest exit; 0 for a pyramid alone.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int,
        mask_dim: int,
        heads: int,
        feedforward_dim: int,
        encoder_layers: int,
    ) -> None:
        super().__init__()
        encoder = TransformerEncoder(channels, heads, feedforward_dim, encoder_layers)
        coarsest = in_channels["res5"]
        self.input_proj: nn.Conv2d | None = None
        if encoder_layers:
            self.input_proj, coarsest = nn.Conv2d(coarsest, channels, 1), channels
        else:
            encoder.layers.append(_Unchanged())
        self.transformer = _Transformer(encoder=encoder)
        for number, name in enumerate(MAPS[:3], start=1):
            self.add_module(f"adapter_{number}", NormedConv2d(in_channels[name], channels, 1, _norm(channels)))
            self.add_module(f"layer_{number}", NormedConv2d(channels, channels, 3, _norm(channels)))
        self.layer_4 = NormedConv2d(coarsest, channels, 3, _norm(channels))
        self.mask_features = nn.Conv2d(channels, mask_dim, 3, padding=1)
        for convolution in self.children():
            if isinstance(convolution, nn.Conv2d):
                nn.init.kaiming_uniform_(convolution.weight, a=1)
                if convolution.bias is not None:
                    nn.init.zeros_(convolution.bias)

    @property
    def encoder(self) -> TransformerEncoder:
        """The encoder whose layers exits skip."""
        encoder: TransformerEncoder = self.transformer.get_submodule("encoder")  # type: ignore[assignment]  # as built
        return encoder

    def laterals(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Project ``res4``, ``res3`` and ``res2``."""
        return tuple(self.get_submodule(f"adapter_{number}")(maps[f"res{number + 1}"]) for number in (3, 2, 1))

    def fuse(self, coarsest: Tensor, laterals: Sequence[Tensor]) -> Float[Tensor, "B Cm H4 W4"]:
        """Follow the pyramid down from the coarsest map, which may hold several exits of the batch, to stride 4."""
        fused = F.relu(self.layer_4(coarsest))
        for number, lateral in zip((3, 2, 1), laterals, strict=True):
            fused = F.interpolate(fused, size=lateral.shape[-2:], mode="nearest")
            fused = (fused.view(-1, *lateral.shape) + lateral).flatten(0, 1)
            fused = F.relu(self.get_submodule(f"layer_{number}")(fused))
        features: Tensor = self.mask_features(fused)
        return features


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class MaskQueryDecoder(nn.Module):
    """DETR's decoder with a class and a mask kernel per query.

    Args:
        in_channels: Width of a memory that is still to be projected; None for one of width C.
        channels: C.
        mask_dim: Channels of the mask features.
        layers: S.
        num_queries: Q.
        num_classes: K, without "no object".
    """

    def __init__(
        self,
        in_channels: int | None,
        channels: int,
        mask_dim: int,
        heads: int,
        feedforward_dim: int,
        layers: int,
        num_queries: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.transformer = _Transformer(decoder=QueryDecoder(channels, heads, feedforward_dim, layers))
        self.query_embed = nn.Embedding(num_queries, channels)
        self.input_proj = None if in_channels is None else nn.Conv2d(in_channels, channels, 1)
        self.class_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = MaskEmbedding(channels, mask_dim)

    @property
    def decoder(self) -> QueryDecoder:
        """Its layers."""
        decoder: QueryDecoder = self.transformer.get_submodule("decoder")  # type: ignore[assignment]  # as built
        return decoder

    def forward(
        self,
        memory: Float[Tensor, "B N C"],
        positions: Float[Tensor, "#B N C"],
        mask_features: Float[Tensor, "B Cm H4 W4"],
        all_layers: bool,
    ) -> tuple[Float[Tensor, "S B Q K1"], Float[Tensor, "S B Q H4 W4"]]:
        """Class and mask logits of every layer, or of the last one."""
        layers = self.decoder(self.query_embed.weight, memory, positions)
        queries = torch.stack(layers if all_layers else layers[-1:])
        masks = torch.einsum("sbqc,bchw->sbqhw", self.mask_embed(queries), mask_features)
        return self.class_embed(queries), masks


class _SegmentationHead(nn.Module):
    """Pixel decoder and transformer decoder (a level of naming in published state dicts)."""

    def __init__(self, pixel_decoder: PyramidDecoder, predictor: MaskQueryDecoder) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor


class MaskFormer(ExitNetwork):
    """MaskFormer whose encoder can be left after any layer.

    Args:
        backbone: Module from normalised images to the maps ``res2`` .. ``res5``.
        pixel_decoder: Fits the backbone's widths.
        predictor: The decoder shared by all exits.
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
    """

    # The stride of the coarsest level.
    size_divisor = 32

    def __init__(
        self,
        backbone: Backbone,
        pixel_decoder: PyramidDecoder,
        predictor: MaskQueryDecoder,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone = backbone
        self.sem_seg_head = _SegmentationHead(pixel_decoder, predictor)

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.sem_seg_head.predictor.query_embed.num_embeddings

    @property
    def exits(self) -> ExitPlan:
        """Its exits: any of the encoder's layers."""
        return self.sem_seg_head.pixel_decoder.encoder.exits

    @property
    def class_head(self) -> nn.Linear:
        """The layer that gives the class logits."""
        return self.sem_seg_head.predictor.class_embed

    @property
    def encoder_layers(self) -> nn.ModuleList:
        """The encoder's layers."""
        return self.sem_seg_head.pixel_decoder.encoder.layers

    def parameter_parts(self) -> dict[str, nn.Module]:
        """What stands beside the backbone, by the names of the papers' tables."""
        head = self.sem_seg_head
        return {"pixel_decoder": head.pixel_decoder, "transformer_decoder": head.predictor}

    def transformer_layers(self) -> Iterator[nn.Module]:
        """All layers of encoder and decoder, whose activations may be recomputed in training."""
        yield from self.encoder_layers
        yield from self.sem_seg_head.predictor.decoder.layers

    def extract(self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size] | None = None) -> PyramidFeatures:
        """Backbone and projections: all that every exit and the gate share.

        Args:
            image_sizes: Makes no difference: padding is no special place to this model.
        """
        with self._autocast(images):
            return self._project(self._maps(images))

    def _project(self, maps: Mapping[str, Tensor]) -> PyramidFeatures:
        decoder, predictor = self.sem_seg_head.pixel_decoder, self.sem_seg_head.predictor
        coarsest = maps["res5"]
        projection = predictor.input_proj if decoder.input_proj is None else decoder.input_proj
        projected = coarsest if projection is None else projection(coarsest)
        tokens = projected.flatten(2).transpose(1, 2)
        height, width = coarsest.shape[2:]
        return PyramidFeatures(maps, tokens, ((height, width),), decoder.laterals(maps))

    def _positions(self, shape: Size, tokens: Tensor) -> Tensor:
        return sine_positions(*shape, tokens.shape[2], tokens.device, torch.float32)[None]

    def encode(self, features: PyramidFeatures, exit_depths: Sequence[int]) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens after each wanted encoder depth; the encoder runs once, up to the deepest."""
        tokens, (shape,) = features.tokens, features.shapes
        with self._autocast(tokens):
            encoded: tuple[Tensor, ...] = self.sem_seg_head.pixel_decoder.encoder(
                tokens, self._positions(shape, tokens), None, exit_depths
            )
        return encoded

    def decode(
        self, tokens: Float[Tensor, "B N C"], features: PyramidFeatures, all_layers: bool = False
    ) -> Predictions:
        """Encoded tokens to predictions with the leading axis S.

        ``tokens`` may hold several exits of the batch one after the other: B is then a multiple of the features'.
        """
        (shape,) = features.shapes
        with self._autocast(tokens):
            coarsest = self._coarsest(tokens, shape, features.maps["res5"])
            mask_features = self.sem_seg_head.pixel_decoder.fuse(coarsest, features.laterals)
            return self._predict(tokens, shape, mask_features, all_layers)

    def _coarsest(self, tokens: Tensor, shape: Size, res5: Tensor) -> Tensor:
        """What the pyramid begins with: the encoder's map, or without an encoder the backbone's."""
        if self.sem_seg_head.pixel_decoder.input_proj is None:
            return res5.repeat(len(tokens) // len(res5), 1, 1, 1)
        return tokens.transpose(1, 2).reshape(len(tokens), -1, *shape)

    def _predict(self, tokens: Tensor, shape: Size, mask_features: Tensor, all_layers: bool) -> Predictions:
        positions = self._positions(shape, tokens)
        return Predictions(*self.sem_seg_head.predictor(tokens, positions, mask_features, all_layers))

    def encode_each(self, features: PyramidFeatures, depths: Int[Tensor, " B"]) -> Float[Tensor, "B N C"]:
        """Each image's tokens at its own exit depth; images leave the encoder as they are done."""
        tokens, (shape,) = features.tokens, features.shapes
        with self._autocast(tokens):
            encoder = self.sem_seg_head.pixel_decoder.encoder
            return encoder.forward_per_image(tokens, self._positions(shape, tokens), None, depths)

    def parts(self, exit_depth: int, all_layers: bool = False) -> tuple[Part, ...]:
        """The steps of one exit."""
        laterals = ("lateral4", "lateral3", "lateral2")

        def project(*maps: Tensor) -> tuple[Tensor, ...]:
            with self._autocast(maps[0]):
                features = self._project(dict(zip(MAPS, maps, strict=True)))
            return features.tokens, *features.laterals

        def encode(tokens: Tensor, res5: Tensor) -> tuple[Tensor, ...]:
            height, width = res5.shape[2:]
            return self.encode(PyramidFeatures({}, tokens, ((height, width),), ()), (exit_depth,))

        def fuse(tokens: Tensor, res5: Tensor, *laterals: Tensor) -> tuple[Tensor, ...]:
            height, width = res5.shape[2:]
            with self._autocast(tokens):
                coarsest = self._coarsest(tokens, (height, width), res5)
                return (self.sem_seg_head.pixel_decoder.fuse(coarsest, laterals),)

        def predict(tokens: Tensor, res5: Tensor, fused: Tensor) -> tuple[Tensor, ...]:
            height, width = res5.shape[2:]
            with self._autocast(tokens):
                final = self._predict(tokens, (height, width), fused, all_layers)
            return final.pred_logits, final.pred_masks

        return (
            self._backbone_part(),
            Part("projections", project, MAPS, ("tokens", *laterals)),
            Part("encoder", encode, ("tokens", "res5"), ("tokens",)),
            Part("mask_features", fuse, ("tokens", "res5", *laterals), ("fused",)),
            Part("transformer_decoder", predict, ("tokens", "res5", "fused"), ("pred_logits", "pred_masks")),
        )
