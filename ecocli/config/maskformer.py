"""Sizes of MaskFormer (arXiv 2107.06278) and its presets: DETR's encoder and decoder around a feature pyramid."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ecocli.config.architecture import BackboneConfig, Depth, ResNetConfig, SwinConfig, Width
from ecocli.config.base import Config
from ecocli.exits import ExitPlan


class MaskFormerConfig(Config):
    """Everything needed to build one MaskFormer.

    Attributes:
        hidden_dim: Channels of the tokens and the pyramid.
        mask_dim: Channels of the mask features.
        heads: Attention heads of the encoder and the decoder.
        encoder_layers: The deepest exit; 0 as in the published Swin models, which have no encoder and one exit.
        encoder_feedforward_dim: Width of the encoder's feed-forward nets.
        decoder_layers: Each gives a supervised prediction.
        feedforward_dim: Width of the decoder's feed-forward nets.
        num_queries: Segments predicted per image.
        num_classes: Classes without "no object".
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
        object_mask_threshold: Panoptic inference keeps queries whose class probability exceeds this.
        overlap_threshold: A panoptic segment keeps at least this ratio of its own mask, or is dropped.
    """

    kind: Literal["maskformer"] = "maskformer"
    name: str
    backbone: BackboneConfig
    hidden_dim: Width = 256
    mask_dim: Width = 256
    heads: Width = 8
    encoder_layers: int = Field(default=6, ge=0, le=256)
    encoder_feedforward_dim: Width = 2048
    decoder_layers: Depth = 6
    feedforward_dim: Width = 2048
    num_queries: Width = 100
    num_classes: Width
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    object_mask_threshold: float = Field(default=0.8, ge=0, le=1)
    overlap_threshold: float = Field(default=0.8, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_dim % 32 or self.hidden_dim % self.heads:
            raise ValueError(
                f"hidden_dim is {self.hidden_dim}, expected a multiple of 32, the groups of its norms, and of the "
                f"{self.heads} heads"
            )
        return self

    @property
    def exits(self) -> ExitPlan:
        """The exits of its encoder: any of its layers; without an encoder there is one."""
        layers = max(self.encoder_layers, 1)
        return ExitPlan(layers, tuple(range(1, layers + 1)))

    def usual_exits(self, said: Mapping[str, Any]) -> tuple[int, ...]:
        """The usual exits with what a user said in place of its settings; its own while that makes no sense."""
        layers = said.get("encoder_layers")
        fits = isinstance(layers, int) and layers >= 0
        return (self.model_copy(update={"encoder_layers": layers}) if fits else self).exits.default_depths()

    @property
    def size_divisor(self) -> int:
        """Padded inputs are multiples of it, in pixels."""
        return 32


MASKFORMER_ARCHITECTURES: dict[str, MaskFormerConfig] = {
    "maskformer-r50": MaskFormerConfig(name="maskformer-r50", backbone=ResNetConfig(), num_classes=133),
    "maskformer-swin-t": MaskFormerConfig(
        name="maskformer-swin-t", backbone=SwinConfig(), encoder_layers=0, num_classes=133
    ),
    "maskformer-swin-s": MaskFormerConfig(
        name="maskformer-swin-s", backbone=SwinConfig(depths=(2, 2, 18, 2)), encoder_layers=0, num_classes=133
    ),
    # The built-in data's model, with the sizes of its Mask2Former.
    "maskformer-shapes": MaskFormerConfig(
        name="maskformer-shapes",
        backbone=ResNetConfig(
            blocks=(1, 1, 1, 1), stem_channels=16, res2_channels=32, bottleneck_channels=16, norm="gn"
        ),
        hidden_dim=64,
        mask_dim=64,
        heads=4,
        encoder_feedforward_dim=128,
        decoder_layers=3,
        feedforward_dim=128,
        num_queries=24,
        num_classes=13,
        object_mask_threshold=0.5,
    ),
}
