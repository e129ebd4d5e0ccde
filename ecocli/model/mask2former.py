"""Mask2Former with exits in its interface.

Shapes: B images, Q queries, K classes, N tokens, C channels, E exits, S supervised predictions (the raw queries' first,
the final one last; S = 1 where only the final one is asked for).
Source: Mask2Former (arXiv 2112.01527); exits after any encoder layer: ECO-M2F (arXiv 2404.15244, section 3). Layers
are post-norm, so an exit needs no norm of its own; everything after the encoder is shared by all exits.
State-dict names equal the original's (``backbone.*``, ``sem_seg_head.pixel_decoder.*``, ``sem_seg_head.predictor.*``);
the criterion lives in ``ecocli.losses``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from ecocli.exits import ExitPlan
from ecocli.model.contracts import MAPS, Backbone, ExitNetwork, Size
from ecocli.model.deformable import SpatialShapes
from ecocli.model.parts import Part
from ecocli.model.pixel_decoder import Features, PixelDecoder
from ecocli.model.transformer_decoder import TransformerDecoder

# Beyond this many pixels a map of the backbone is larger than what the C library's allocator gives out again: every
# such map is then made of fresh pages, which the operating system clears one by one.
_CPU_PIXELS_AT_ONCE = 1 << 19


def images_at_once(height: int, width: int, device_type: str) -> int:
    """Images of a size that are worth passing through the network together, where no gradient is wanted.

    On a CPU one large image keeps all cores busy by itself, and several at once take longer for each (ResNet-50,
    800 x 1088, four images: a sixth) unless freed memory is kept. A GPU takes whole batches.
    """
    return max(1, _CPU_PIXELS_AT_ONCE // (height * width)) if device_type == "cpu" else 1 << 30


@dataclass(frozen=True)
class Predictions:
    """Class and mask logits; leading axes as the producing method says.

    Attributes:
        pred_masks: Mask logits at stride 4 of the padded input.
    """

    pred_logits: Float[Tensor, "*lead B Q K1"]
    pred_masks: Float[Tensor, "*lead B Q H4 W4"]

    @property
    def regions(self) -> Tensor:
        """The masks."""
        return self.pred_masks


class SegmentationHead(nn.Module):
    """Pixel decoder and transformer decoder (a level of naming in published state dicts)."""

    def __init__(self, pixel_decoder: PixelDecoder, predictor: TransformerDecoder) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor


class Mask2Former(ExitNetwork):
    """Mask2Former whose encoder can be left at its exits.

    Args:
        backbone: Module from normalised images to the maps ``res2`` .. ``res5``.
        pixel_decoder: Pixel decoder that fits the backbone's widths.
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
    """

    # The stride of the coarsest level.
    size_divisor = 32

    def __init__(
        self,
        backbone: Backbone,
        pixel_decoder: PixelDecoder,
        transformer_decoder: TransformerDecoder,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone = backbone
        self.sem_seg_head = SegmentationHead(pixel_decoder, transformer_decoder)

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.sem_seg_head.predictor.query_feat.num_embeddings

    @property
    def exits(self) -> ExitPlan:
        """Its exits, and the layers that each of them runs."""
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
        predictor = self.sem_seg_head.predictor
        yield from self.encoder_layers
        yield from predictor.transformer_cross_attention_layers
        yield from predictor.transformer_self_attention_layers
        yield from predictor.transformer_ffn_layers

    def extract(self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size] | None = None) -> Features:
        """Backbone and projections: all that every exit and the gate share.

        Args:
            image_sizes: Makes no difference: padding is no special place to this model.
        """
        with self._autocast(images):
            return self.sem_seg_head.pixel_decoder.project(self._maps(images))

    def encode(self, features: Features, exit_depths: Sequence[int]) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens at each wanted exit; the encoder runs once, up to the deepest."""
        with self._autocast(features.tokens):
            return self.sem_seg_head.pixel_decoder.encode(features.tokens, features.shapes, exit_depths)

    def decode(self, tokens: Float[Tensor, "B N C"], features: Features, all_layers: bool = False) -> Predictions:
        """Encoded tokens to predictions with the leading axis S.

        ``tokens`` may hold several exits of the batch one after the other: B is then a multiple of the features'.
        """
        with self._autocast(tokens):
            fused, memories = self.sem_seg_head.pixel_decoder.fuse_levels(tokens, features.shapes, features.lateral)
            return self._predict(memories, features.shapes, fused, all_layers)

    def encode_each(self, features: Features, depths: Int[Tensor, " B"]) -> Float[Tensor, "B N C"]:
        """Each image's tokens at its own exit depth; images leave the encoder as they are done."""
        with self._autocast(features.tokens):
            return self.sem_seg_head.pixel_decoder.encode_each(features.tokens, features.shapes, depths)

    def _predict(
        self,
        memories: Sequence[Float[Tensor, "B _n C"]],
        shapes: SpatialShapes,
        fused: Float[Tensor, "B C H4 W4"],
        all_layers: bool,
    ) -> Predictions:
        predictor, projection = self.sem_seg_head.predictor, self.sem_seg_head.pixel_decoder.mask_features
        if all_layers:
            return Predictions(*predictor(memories, shapes, projection(fused)))
        return Predictions(*predictor.forward_last(memories, shapes, fused, projection))

    def parts(self, exit_depth: int, all_layers: bool = False) -> tuple[Part, ...]:
        """The steps of one exit; ``all_layers`` as in ``decode``, with the masks of every layer at full size."""
        decoder = self.sem_seg_head.pixel_decoder

        def project(*levels: Tensor) -> tuple[Tensor, ...]:
            with self._autocast(levels[0]):
                features = decoder.project(dict(zip(MAPS, levels, strict=True)))
            return features.tokens, features.lateral

        def encode(tokens: Tensor, lateral: Tensor) -> tuple[Tensor, ...]:
            with self._autocast(tokens):
                return decoder.encode(tokens, level_shapes(lateral), (exit_depth,))

        def fuse(tokens: Tensor, lateral: Tensor) -> tuple[Tensor, ...]:
            with self._autocast(tokens):
                fused = decoder.fuse_levels(tokens, level_shapes(lateral), lateral)[0]
                return (decoder.mask_features(fused) if all_layers else fused,)

        def predict(tokens: Tensor, lateral: Tensor, fused: Tensor) -> tuple[Tensor, ...]:
            shapes = level_shapes(lateral)
            memories = decoder.split(tokens, shapes)
            with self._autocast(tokens):
                if all_layers:
                    logits, masks = self.sem_seg_head.predictor(memories, shapes, fused)
                    return logits, masks
                final = self._predict(memories, shapes, fused, all_layers=False)
            return final.pred_logits, final.pred_masks

        return (
            self._backbone_part(),
            Part("projections", project, MAPS, ("tokens", "lateral")),
            Part("encoder", encode, ("tokens", "lateral"), ("tokens",)),
            Part("mask_features", fuse, ("tokens", "lateral"), ("fused",)),
            Part("transformer_decoder", predict, ("tokens", "lateral", "fused"), ("pred_logits", "pred_masks")),
        )


def level_shapes(lateral: Float[Tensor, "B C H4 W4"]) -> SpatialShapes:
    """Height and width of the levels of stride 32, 16 and 8, from a map of stride 4 of a padded image."""
    height, width = lateral.shape[2:]
    return tuple((height // step, width // step) for step in (8, 4, 2))
