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

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ecocli.model.contracts import ExitModel, Size
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
        pred_logits: Class logits, "no object" last.
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


class Mask2Former(ExitModel):
    """Mask2Former whose encoder can be left after any layer.

    Args:
        backbone: Module from normalised images to the maps ``res2`` .. ``res5``.
        pixel_decoder: Pixel decoder that fits the backbone's widths.
        transformer_decoder: The decoder shared by all exits.
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
    """

    # The stride of the coarsest level: padded inputs are multiples of it.
    size_divisor = 32

    def __init__(
        self,
        backbone: nn.Module,
        pixel_decoder: PixelDecoder,
        transformer_decoder: TransformerDecoder,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone = backbone
        self.sem_seg_head = SegmentationHead(pixel_decoder, transformer_decoder)

    @property
    def num_classes(self) -> int:
        """K, without "no object"."""
        return self.sem_seg_head.predictor.class_embed.out_features - 1

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.sem_seg_head.predictor.query_feat.num_embeddings

    @property
    def encoder_layers(self) -> nn.ModuleList:
        """The layers that exits skip."""
        return self.sem_seg_head.pixel_decoder.encoder.layers

    def transformer_layers(self) -> Iterator[nn.Module]:
        """All layers of encoder and decoder, whose activations may be recomputed in training."""
        head = self.sem_seg_head
        yield from head.pixel_decoder.encoder.layers
        yield from head.predictor.transformer_cross_attention_layers
        yield from head.predictor.transformer_self_attention_layers
        yield from head.predictor.transformer_ffn_layers

    def extract(self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size] | None = None) -> Features:
        """Backbone and projections: all that every exit and the gate share.

        Args:
            images: Normalised, padded to a multiple of ``size_divisor``.
            image_sizes: Makes no difference: padding is no special place to this model.
        """
        # Convolutions run faster with channels last, on CPUs in float32 as on GPUs in half precision.
        images = images.contiguous(memory_format=torch.channels_last)
        with self._autocast(images):
            return self.sem_seg_head.pixel_decoder.project(self.backbone(images))

    def encode(self, features: Features, exit_depths: Sequence[int]) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens after each wanted encoder depth; the encoder runs once, up to the deepest."""
        decoder = self.sem_seg_head.pixel_decoder
        with self._autocast(features.tokens):
            encoded: tuple[Tensor, ...] = decoder.encoder(
                features.tokens, decoder.positions(features), features.shapes, exit_depths
            )
        return encoded

    def decode(self, tokens: Float[Tensor, "B N C"], features: Features, all_layers: bool = False) -> Predictions:
        """Encoded tokens to predictions with the leading axis S.

        ``tokens`` may hold several exits of the batch one after the other: B is then a multiple of the features'.
        """
        head = self.sem_seg_head
        with self._autocast(tokens):
            if all_layers:
                mask_features, memories = head.pixel_decoder.fuse(tokens, features.shapes, features.lateral)
                return Predictions(*head.predictor(memories, features.shapes, mask_features))
            fused, memories = head.pixel_decoder.fuse_levels(tokens, features.shapes, features.lateral)
            return Predictions(
                *head.predictor.forward_last(memories, features.shapes, fused, head.pixel_decoder.mask_features)
            )

    def forward(
        self, images: Float[Tensor, "B 3 H W"], exit_depths: Sequence[int], all_layers: bool = True
    ) -> Predictions:
        """Predictions of every wanted exit.

        Args:
            images: Normalised, padded to a multiple of ``size_divisor``.
            exit_depths: Encoder layers run, one count per wanted exit.
            all_layers: Whether to return every supervised prediction or the final one only (S = 1).

        Returns:
            ``pred_logits`` [E, S, B, Q, K+1] and ``pred_masks`` [E, S, B, Q, H/4, W/4].
        """
        features = self.extract(images)
        tokens = torch.cat(self.encode(features, exit_depths))
        stacked = self.decode(tokens, features, all_layers)
        exits, batch = len(exit_depths), images.shape[0]

        def split(x: Tensor) -> Tensor:
            return x.view(x.shape[0], exits, batch, *x.shape[2:]).transpose(0, 1)

        return Predictions(split(stacked.pred_logits), split(stacked.pred_masks))

    def predict_at(self, features: Features, depths: Int[Tensor, " B"]) -> Predictions:
        """Final predictions, each image at its own exit depth; images leave the encoder as they are done.

        Args:
            depths: Encoder layers to run, per image.

        Returns:
            ``pred_logits`` [B, Q, K+1] and ``pred_masks`` [B, Q, H/4, W/4].
        """
        decoder = self.sem_seg_head.pixel_decoder
        with self._autocast(features.tokens):
            tokens = decoder.encoder.forward_per_image(
                features.tokens, decoder.positions(features), features.shapes, depths
            )
        final = self.decode(tokens, features)
        return Predictions(final.pred_logits[-1], final.pred_masks[-1])

    def forward_per_image(self, images: Float[Tensor, "B 3 H W"], depths: Int[Tensor, " B"]) -> Predictions:
        """``predict_at`` on images, as many at once as ``images_at_once`` says."""
        group = images_at_once(images.shape[2], images.shape[3], images.device.type)
        parts = [
            self.predict_at(self.extract(some), own_depths)
            for some, own_depths in zip(torch.split(images, group), torch.split(depths, group), strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return Predictions(
            torch.cat([part.pred_logits for part in parts]), torch.cat([part.pred_masks for part in parts])
        )
