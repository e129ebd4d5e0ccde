"""Sizes of every architecture the tool can build, and the presets that carry a published or built-in model's name.

A config only holds numbers; ``ecocli.model.builders`` is the one place that turns them into modules.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError, model_validator

from ecocli.config.base import Config
from ecocli.exits import ExitPlan

NormName = Literal["frozen_bn", "bn", "sync_bn", "gn"]
# Far beyond any model that was ever trained, and far below what hangs or exhausts a machine while it is built.
Width = Annotated[int, Field(ge=1, le=16_384)]
Depth = Annotated[int, Field(ge=1, le=256)]


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
        dilate_res5: Whether res5 keeps stride 16 and dilates its convolutions instead (DETR's DC5).
        frozen_stages: Parts that are not trained, from the input on: the stem, res2, res3, res4, res5.
    """

    kind: Literal["resnet"] = "resnet"
    blocks: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    stem_channels: Width = 64
    res2_channels: Width = 256
    bottleneck_channels: Width = 64
    norm: NormName = "frozen_bn"
    stride_in_1x1: bool = False
    dilate_res5: bool = False
    frozen_stages: NonNegativeInt = 0


class SwinConfig(Config):
    """A Swin Transformer with Mask2Former's norms after each stage.

    Attributes:
        embed_dim: Channels of res2; doubles with every stage.
        depths: Blocks of res2, res3, res4, res5.
        num_heads: Attention heads of each stage.
        window_size: Side of the attention window in cells of stride 4 and up.
        mlp_ratio: Hidden width of a block's MLP over its channels.
        qkv_bias: Whether the query, key and value projection has a bias.
        drop_path_rate: Stochastic depth of the last block in training, rising linearly from 0.
    """

    kind: Literal["swin"] = "swin"
    embed_dim: Width = 96
    depths: tuple[Depth, Depth, Depth, Depth] = (2, 2, 6, 2)
    num_heads: tuple[Width, Width, Width, Width] = (3, 6, 12, 24)
    window_size: Width = 7
    mlp_ratio: float = Field(default=4.0, gt=0, le=64)
    qkv_bias: bool = True
    drop_path_rate: float = Field(default=0.3, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for stage, heads in enumerate(self.num_heads):
            if (self.embed_dim << stage) % heads:
                raise ValueError(
                    f"num_heads of res{stage + 2} is {heads}, which does not divide {self.embed_dim << stage} channels"
                )
        return self


BackboneConfig = Annotated[ResNetConfig | SwinConfig, Field(discriminator="kind")]


class DeformableEncoderConfig(Config):
    """Mask2Former's encoder: every layer updates the tokens of all levels; it can be left after any layer.

    Attributes:
        layers: The deepest exit.
        heads: Attention heads.
        points: Sampling points per head and level.
        feedforward_dim: Width of the feed-forward nets.
    """

    kind: Literal["deformable"] = "deformable"
    layers: Depth = 6
    heads: Width = 8
    points: Width = 4
    feedforward_dim: Width = 1024

    @property
    def exits(self) -> ExitPlan:
        """Its exits."""
        return ExitPlan(self.layers, tuple(range(1, self.layers + 1)))


class InterleavedEncoderConfig(Config):
    """Lite-M2F's encoder: all layers but the last update the two coarse levels only; the last one follows every exit.

    Attributes:
        layers: Including the last one, which is no exit.
        heads: Attention heads.
        points: Sampling points per head and level.
        feedforward_dim: Width of the feed-forward nets.
        small_ffn: Whether the last layer's fine tokens take a feed-forward net of their own, as narrow as the tokens.
    """

    kind: Literal["interleaved"] = "interleaved"
    layers: int = Field(default=6, ge=2, le=256)
    heads: Width = 8
    points: Width = 4
    feedforward_dim: Width = 1024
    small_ffn: bool = False

    @property
    def exits(self) -> ExitPlan:
        """Its exits: each is followed by the last layer."""
        return ExitPlan(self.layers, tuple(range(1, self.layers)), tail=(self.layers - 1,))


class HybridEncoderConfig(Config):
    """RT-DETR's encoder: attention on the coarsest level, then convolutions across levels. One step, hence one exit.

    Attributes:
        heads: Attention heads.
        feedforward_dim: Width of the feed-forward net.
        expansion: Width of the fusion blocks over that of the tokens.
        fusion_depth: RepVGG blocks of each fusion block.
    """

    kind: Literal["hybrid"] = "hybrid"
    heads: Width = 8
    feedforward_dim: Width = 1024
    expansion: float = Field(default=1.0, gt=0, le=64)
    fusion_depth: Depth = 3

    @property
    def exits(self) -> ExitPlan:
        """Its only exit."""
        return ExitPlan(1, (1,))


EncoderConfig = Annotated[
    DeformableEncoderConfig | InterleavedEncoderConfig | HybridEncoderConfig, Field(discriminator="kind")
]


class PixelDecoderConfig(Config):
    """The pixel decoder; its encoder layers are what exits skip."""

    hidden_dim: Width = 256
    mask_dim: Width = 256
    encoder: EncoderConfig = DeformableEncoderConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_dim % 32:
            raise ValueError(f"hidden_dim is {self.hidden_dim}, expected a multiple of 32, the groups of its norms")
        if self.hidden_dim % self.encoder.heads:
            raise ValueError(
                f"encoder.heads is {self.encoder.heads}, which does not divide hidden_dim {self.hidden_dim}"
            )
        return self


class TransformerDecoderConfig(Config):
    """The masked-attention decoder; ``layers`` predictions follow the one from the raw queries."""

    layers: Depth = 9
    heads: Width = 8
    feedforward_dim: Width = 2048
    num_queries: Width = 100


class ArchitectureConfig(Config):
    """Everything needed to build one Mask2Former.

    Attributes:
        num_classes: Classes without "no object".
        pixel_mean: Per RGB channel, in grey levels 0..255.
        pixel_std: Per RGB channel, in grey levels 0..255.
        object_mask_threshold: Panoptic inference keeps queries whose class probability exceeds this.
        overlap_threshold: A panoptic segment keeps at least this ratio of its own mask, or is dropped.
    """

    kind: Literal["mask2former"] = "mask2former"
    name: str
    backbone: BackboneConfig
    pixel_decoder: PixelDecoderConfig = PixelDecoderConfig()
    transformer_decoder: TransformerDecoderConfig = TransformerDecoderConfig()
    num_classes: Width
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    object_mask_threshold: float = Field(default=0.8, ge=0, le=1)
    overlap_threshold: float = Field(default=0.8, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        heads, width = self.transformer_decoder.heads, self.pixel_decoder.hidden_dim
        if width % heads:
            raise ValueError(f"transformer_decoder.heads is {heads}, which does not divide hidden_dim {width}")
        if not all(value > 0 for value in self.pixel_std):
            raise ValueError(f"pixel_std is {list(self.pixel_std)}, expected positive numbers")
        return self

    @property
    def exits(self) -> ExitPlan:
        """The exits of its encoder."""
        return self.pixel_decoder.encoder.exits

    def usual_exits(self, said: Mapping[str, Any]) -> tuple[int, ...]:
        """The usual exits with what a user said in place of its settings; its own while that makes no sense."""
        pixel = said.get("pixel_decoder")
        encoder = pixel.get("encoder") if isinstance(pixel, Mapping) else None
        own = self.pixel_decoder.encoder
        changed = {**own.model_dump(), **encoder} if isinstance(encoder, Mapping) else own
        try:
            return TypeAdapter[EncoderConfig](EncoderConfig).validate_python(changed).exits.default_depths()
        except ValidationError:
            return self.exits.default_depths()

    @property
    def hidden_dim(self) -> int:
        """Channels of the tokens."""
        return self.pixel_decoder.hidden_dim

    @property
    def size_divisor(self) -> int:
        """Padded inputs are multiples of it, in pixels."""
        return 32


_SWIN_S = SwinConfig(depths=(2, 2, 18, 2))
_SWIN_B = SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))
_SWIN_L = SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48))
# Pre-trained at 384 pixels: the window grows to 12 cells, everything else stays.
_SWIN_B_384 = _SWIN_B.model_copy(update={"window_size": 12})
_SWIN_L_384 = _SWIN_L.model_copy(update={"window_size": 12})
_QUERIES_200 = TransformerDecoderConfig(num_queries=200)

_LITE = PixelDecoderConfig(encoder=InterleavedEncoderConfig())
_RT = PixelDecoderConfig(encoder=HybridEncoderConfig())

# The built-in data's models: the same classes, small. Their backbone sees little of the image (one 3 x 3 convolution
# per stage), so that context has to come from the encoder layers.
_SHAPES = ArchitectureConfig(
    name="m2f-shapes",
    backbone=ResNetConfig(blocks=(1, 1, 1, 1), stem_channels=16, res2_channels=32, bottleneck_channels=16, norm="gn"),
    pixel_decoder=PixelDecoderConfig(
        hidden_dim=64, mask_dim=64, encoder=DeformableEncoderConfig(heads=4, feedforward_dim=128)
    ),
    transformer_decoder=TransformerDecoderConfig(layers=3, heads=8, feedforward_dim=128, num_queries=24),
    num_classes=13,
    object_mask_threshold=0.5,
)


def _small(name: str, encoder: EncoderConfig) -> ArchitectureConfig:
    """The built-in data's model with another encoder."""
    pixel = _SHAPES.pixel_decoder.model_copy(update={"encoder": encoder})
    return _SHAPES.model_copy(update={"name": name, "pixel_decoder": pixel})


# One entry per name of `--arch`; num_classes is the COCO panoptic count unless the data set says otherwise.
ARCHITECTURES: dict[str, ArchitectureConfig] = {
    "m2f-r50": ArchitectureConfig(name="m2f-r50", backbone=ResNetConfig(), num_classes=133),
    "m2f-swin-t": ArchitectureConfig(name="m2f-swin-t", backbone=SwinConfig(), num_classes=133),
    "m2f-swin-s": ArchitectureConfig(name="m2f-swin-s", backbone=_SWIN_S, num_classes=133),
    "m2f-swin-b": ArchitectureConfig(name="m2f-swin-b", backbone=_SWIN_B, num_classes=133),
    "m2f-swin-b-384": ArchitectureConfig(name="m2f-swin-b-384", backbone=_SWIN_B_384, num_classes=133),
    "m2f-swin-l": ArchitectureConfig(
        name="m2f-swin-l", backbone=_SWIN_L, transformer_decoder=_QUERIES_200, num_classes=133
    ),
    "m2f-swin-l-384": ArchitectureConfig(
        name="m2f-swin-l-384", backbone=_SWIN_L_384, transformer_decoder=_QUERIES_200, num_classes=133
    ),
    "lite-m2f-r50": ArchitectureConfig(
        name="lite-m2f-r50", backbone=ResNetConfig(), pixel_decoder=_LITE, num_classes=133
    ),
    "lite-m2f-swin-t": ArchitectureConfig(
        name="lite-m2f-swin-t", backbone=SwinConfig(), pixel_decoder=_LITE, num_classes=133
    ),
    "lite-m2f-swin-s": ArchitectureConfig(
        name="lite-m2f-swin-s", backbone=_SWIN_S, pixel_decoder=_LITE, num_classes=133
    ),
    "lite-m2f-swin-b": ArchitectureConfig(
        name="lite-m2f-swin-b", backbone=_SWIN_B, pixel_decoder=_LITE, num_classes=133
    ),
    "rt-m2f-r50": ArchitectureConfig(name="rt-m2f-r50", backbone=ResNetConfig(), pixel_decoder=_RT, num_classes=133),
    "rt-m2f-swin-t": ArchitectureConfig(
        name="rt-m2f-swin-t", backbone=SwinConfig(), pixel_decoder=_RT, num_classes=133
    ),
    "m2f-shapes": _SHAPES,
    "lite-m2f-shapes": _small("lite-m2f-shapes", InterleavedEncoderConfig(heads=4, feedforward_dim=128)),
    "rt-m2f-shapes": _small("rt-m2f-shapes", HybridEncoderConfig(heads=4, feedforward_dim=128)),
}
