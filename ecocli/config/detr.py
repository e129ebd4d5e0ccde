"""Sizes of DETR (arXiv 2005.12872), the detector whose encoder layers exits skip, and its presets."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import PositiveInt

from ecocli.config.architecture import BackboneConfig, ResNetConfig
from ecocli.config.base import Config
from ecocli.exits import ExitPlan


class DetrConfig(Config):
    """Everything needed to build one DETR.

    Attributes:
        hidden_dim: Channels of the tokens.
        heads: Attention heads of the encoder and the decoder.
        encoder_layers: The deepest exit.
        decoder_layers: Each gives a supervised prediction.
        feedforward_dim: Width of the feed-forward nets.
        num_queries: Boxes predicted per image.
        num_classes: Classes without "no object". The published weights have 91: the class is COCO's raw category id.
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
    """

    kind: Literal["detr"] = "detr"
    name: str
    backbone: BackboneConfig
    hidden_dim: PositiveInt = 256
    heads: PositiveInt = 8
    encoder_layers: PositiveInt = 6
    decoder_layers: PositiveInt = 6
    feedforward_dim: PositiveInt = 2048
    num_queries: PositiveInt = 100
    num_classes: PositiveInt
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    @property
    def exits(self) -> ExitPlan:
        """The exits of its encoder: any of its layers."""
        return ExitPlan(self.encoder_layers, tuple(range(1, self.encoder_layers + 1)))

    def usual_exits(self, said: Mapping[str, Any]) -> tuple[int, ...]:
        """The usual exits with what a user said in place of its settings; its own while that makes no sense."""
        layers = said.get("encoder_layers")
        fits = isinstance(layers, int) and layers >= 1
        return (self.model_copy(update={"encoder_layers": layers}) if fits else self).exits.default_depths()

    @property
    def size_divisor(self) -> int:
        """Padded inputs are multiples of it, in pixels: none are padded but to the largest of their batch."""
        return 1


# The original trains neither the stem nor the first stage.
_R50 = ResNetConfig(frozen_stages=2)
_R101 = ResNetConfig(blocks=(3, 4, 23, 3), frozen_stages=2)

DETR_ARCHITECTURES: dict[str, DetrConfig] = {
    "detr-r50": DetrConfig(name="detr-r50", backbone=_R50, num_classes=91),
    "detr-r50-dc5": DetrConfig(
        name="detr-r50-dc5", backbone=_R50.model_copy(update={"dilate_res5": True}), num_classes=91
    ),
    "detr-r101": DetrConfig(name="detr-r101", backbone=_R101, num_classes=91),
    "detr-r101-dc5": DetrConfig(
        name="detr-r101-dc5", backbone=_R101.model_copy(update={"dilate_res5": True}), num_classes=91
    ),
    # The built-in data's detector: its small map at stride 16 comes from a dilated last stage.
    "detr-shapes": DetrConfig(
        name="detr-shapes",
        backbone=ResNetConfig(
            blocks=(1, 1, 1, 1),
            stem_channels=16,
            res2_channels=32,
            bottleneck_channels=16,
            norm="gn",
            dilate_res5=True,
        ),
        hidden_dim=64,
        heads=4,
        decoder_layers=3,
        feedforward_dim=128,
        num_queries=24,
        num_classes=8,
    ),
}
