"""The one place where an architecture's config becomes modules."""

from torch import nn

from ecocli.config.architecture import ArchitectureConfig, ResNetConfig
from ecocli.model.mask2former import Mask2Former
from ecocli.model.pixel_decoder import PixelDecoder
from ecocli.model.resnet import ResNet
from ecocli.model.transformer_decoder import TransformerDecoder


def build_backbone(config: ResNetConfig) -> tuple[nn.Module, dict[str, int]]:
    """Build a backbone.

    Returns:
        The module, and the width of its outputs by name.
    """
    backbone = ResNet(
        blocks=config.blocks,
        stem_channels=config.stem_channels,
        res2_channels=config.res2_channels,
        bottleneck_channels=config.bottleneck_channels,
        norm=config.norm,
        stride_in_1x1=config.stride_in_1x1,
    )
    return backbone, backbone.channels


def build_model(config: ArchitectureConfig) -> Mask2Former:
    """Build a model with fresh weights drawn from torch's global generator."""
    backbone, channels = build_backbone(config.backbone)
    pixel, transformer = config.pixel_decoder, config.transformer_decoder
    return Mask2Former(
        backbone=backbone,
        pixel_decoder=PixelDecoder(
            in_channels=channels,
            hidden_dim=pixel.hidden_dim,
            mask_dim=pixel.mask_dim,
            layers=pixel.encoder_layers,
            heads=pixel.heads,
            points=pixel.points,
            feedforward_dim=pixel.feedforward_dim,
        ),
        transformer_decoder=TransformerDecoder(
            hidden_dim=pixel.hidden_dim,
            mask_dim=pixel.mask_dim,
            num_classes=config.num_classes,
            num_queries=transformer.num_queries,
            layers=transformer.layers,
            heads=transformer.heads,
            feedforward_dim=transformer.feedforward_dim,
        ),
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
    )
