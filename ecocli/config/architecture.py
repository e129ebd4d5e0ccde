"""Sizes of every architecture the tool can build, and the presets that carry a published or built-in model's name.

A config only holds numbers; ``ecocli.model.builders`` is the one place that turns them into modules.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from ecocli.config.base import Config

NormName = Literal["frozen_bn", "bn", "sync_bn", "gn"]


class ResNetConfig(Config):
    """A bottleneck ResNet in detectron2's layout.

    Attributes:
        blocks: Bottleneck blocks of res2, res3, res4, res5.
        stem_channels: Width of the 7 x 7 stem.
        res2_channels: Output width of res2; doubles with every stage.
        bottleneck_channels: Inner width of res2's blocks; doubles with every stage.
        norm: Normalisation after every convolution.
        stride_in_1x1: Whether a stage's stride sits in the first 1 x 1 convolution (MSRA weights) instead
            of the 3 x 3 one.
    """

    kind: Literal["resnet"] = "resnet"
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 4, 6, 3)
    stem_channels: PositiveInt = 64
    res2_channels: PositiveInt = 256
    bottleneck_channels: PositiveInt = 64
    norm: NormName = "frozen_bn"
    stride_in_1x1: bool = False


class PixelDecoderConfig(Config):
    """The multi-scale deformable pixel decoder; its encoder layers are what exits skip."""

    hidden_dim: PositiveInt = 256
    mask_dim: PositiveInt = 256
    encoder_layers: PositiveInt = 6
    heads: PositiveInt = 8
    points: PositiveInt = 4
    feedforward_dim: PositiveInt = 1024


class TransformerDecoderConfig(Config):
    """The masked-attention decoder; ``layers`` predictions follow the one from the raw queries."""

    layers: PositiveInt = 9
    heads: PositiveInt = 8
    feedforward_dim: PositiveInt = 2048
    num_queries: PositiveInt = 100


class ArchitectureConfig(Config):
    """Everything needed to build one Mask2Former.

    Attributes:
        num_classes: Classes without "no object".
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
        object_mask_threshold: Panoptic inference keeps queries whose class probability exceeds this.
        overlap_threshold: A panoptic segment keeps at least this ratio of its own mask, or is dropped.
    """

    name: str
    backbone: ResNetConfig
    pixel_decoder: PixelDecoderConfig = PixelDecoderConfig()
    transformer_decoder: TransformerDecoderConfig = TransformerDecoderConfig()
    num_classes: PositiveInt
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    object_mask_threshold: float = Field(default=0.8, ge=0, le=1)
    overlap_threshold: float = Field(default=0.8, ge=0, le=1)


# One entry per name of `--arch`; num_classes is the COCO panoptic count unless the data set says otherwise.
ARCHITECTURES: dict[str, ArchitectureConfig] = {
    "m2f-r50": ArchitectureConfig(name="m2f-r50", backbone=ResNetConfig(), num_classes=133),
    # The built-in data's model: the same classes, small. Its backbone sees little of the image (one 3 x 3
    # convolution per stage), so that context has to come from the encoder layers.
    "m2f-shapes": ArchitectureConfig(
        name="m2f-shapes",
        backbone=ResNetConfig(
            blocks=(1, 1, 1, 1), stem_channels=16, res2_channels=32, bottleneck_channels=16, norm="gn"
        ),
        pixel_decoder=PixelDecoderConfig(
            hidden_dim=64, mask_dim=64, encoder_layers=6, heads=8, points=4, feedforward_dim=128
        ),
        transformer_decoder=TransformerDecoderConfig(layers=3, heads=8, feedforward_dim=128, num_queries=24),
        num_classes=11,
    ),
}
