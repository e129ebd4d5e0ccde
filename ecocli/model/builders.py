"""The one place where an architecture's config becomes modules."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.architecture import (
    ArchitectureConfig,
    EncoderConfig,
    HybridEncoderConfig,
    InterleavedEncoderConfig,
    ResNetConfig,
    SwinConfig,
)
from ecocli.config.detr import DetrConfig
from ecocli.config.maskformer import MaskFormerConfig
from ecocli.model.contracts import Backbone, ExitNetwork
from ecocli.model.deformable import DeformableEncoder
from ecocli.model.detr import Detr
from ecocli.model.exit_encoder import ExitEncoder
from ecocli.model.hybrid import HybridEncoder, normed_projection
from ecocli.model.mask2former import Mask2Former
from ecocli.model.maskformer import MaskFormer, MaskQueryDecoder, PyramidDecoder
from ecocli.model.pixel_decoder import PixelDecoder, grouped_projection
from ecocli.model.resnet import ResNet
from ecocli.model.swin import SwinTransformer
from ecocli.model.transformer_decoder import TransformerDecoder


def build_backbone(config: ResNetConfig | SwinConfig) -> tuple[Backbone, dict[str, int]]:
    """Build a backbone.

    Returns:
        The module, and the width of its outputs by name.
    """
    build = SwinTransformer if isinstance(config, SwinConfig) else ResNet
    backbone = build(**config.model_dump(exclude={"kind"}))
    return backbone, backbone.channels


def build_encoder(config: EncoderConfig, channels: int, levels: int) -> ExitEncoder:
    """Build the encoder of a pixel decoder over tokens of this width and number of levels."""
    if isinstance(config, HybridEncoderConfig):
        return HybridEncoder(
            channels,
            levels,
            config.heads,
            config.feedforward_dim,
            config.expansion,
            config.fusion_depth,
            config.exits,
        )
    interleaved = isinstance(config, InterleavedEncoderConfig)
    return DeformableEncoder(
        channels,
        levels,
        config.heads,
        config.points,
        config.feedforward_dim,
        config.exits,
        # Of Mask2Former's three levels the coarsest two, as Lite-DETR's H2L1.
        updated_levels=levels - 1 if interleaved else None,
        small_ffn=isinstance(config, InterleavedEncoderConfig) and config.small_ffn,
    )


def build_model(config: AnyArchitecture) -> ExitNetwork:
    """Build a model with fresh weights drawn from torch's global generator."""
    model: ExitNetwork = _BUILDERS[config.kind](config)
    return model


class _NothingFilled(TorchFunctionMode):
    """Leaves parameters as they are: what would change one in place returns it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, unless its name ends as those do that change a tensor in place, such as ``uniform_``."""
        named = kwargs or {}
        tensor = args[0] if args else named.get("tensor")
        if isinstance(tensor, nn.Parameter) and func.__name__.endswith("_") and not func.__name__.endswith("__"):
            return tensor
        return func(*args, **named)


def build_unfilled(config: AnyArchitecture) -> ExitNetwork:
    """Build a model whose weights are to be loaded: nothing is drawn, and their memory is not touched.

    Not on the device ``meta``: drawing there imports torch's compiler, which takes as long as importing torch.
    """
    with _NothingFilled():
        return build_model(config)


def build_mask2former(config: ArchitectureConfig) -> Mask2Former:
    """Build a Mask2Former; see ``build_model``."""
    backbone, channels = build_backbone(config.backbone)
    pixel = config.pixel_decoder
    return Mask2Former(
        backbone=backbone,
        pixel_decoder=PixelDecoder(
            in_channels=channels,
            hidden_dim=pixel.hidden_dim,
            mask_dim=pixel.mask_dim,
            build_encoder=partial(build_encoder, pixel.encoder),
            build_projection=normed_projection if pixel.encoder.kind == "hybrid" else grouped_projection,
        ),
        transformer_decoder=TransformerDecoder(
            hidden_dim=pixel.hidden_dim,
            mask_dim=pixel.mask_dim,
            num_classes=config.num_classes,
            **config.transformer_decoder.model_dump(),
        ),
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
    )


def build_detr(config: DetrConfig) -> Detr:
    """Build a DETR; see ``build_model``."""
    backbone, channels = build_backbone(config.backbone)
    return Detr(
        backbone=backbone,
        backbone_channels=channels["res5"],
        stride=16 if isinstance(config.backbone, ResNetConfig) and config.backbone.dilate_res5 else 32,
        **config.model_dump(exclude={"kind", "name", "backbone"}),
    )


def build_maskformer(config: MaskFormerConfig) -> MaskFormer:
    """Build a MaskFormer; see ``build_model``."""
    backbone, channels = build_backbone(config.backbone)
    return MaskFormer(
        backbone=backbone,
        pixel_decoder=PyramidDecoder(
            in_channels=channels,
            channels=config.hidden_dim,
            mask_dim=config.mask_dim,
            heads=config.heads,
            feedforward_dim=config.encoder_feedforward_dim,
            encoder_layers=config.encoder_layers,
        ),
        predictor=MaskQueryDecoder(
            # The encoder's tokens have the decoder's width already.
            in_channels=None if config.encoder_layers or channels["res5"] == config.hidden_dim else channels["res5"],
            channels=config.hidden_dim,
            mask_dim=config.mask_dim,
            heads=config.heads,
            feedforward_dim=config.feedforward_dim,
            layers=config.decoder_layers,
            num_queries=config.num_queries,
            num_classes=config.num_classes,
        ),
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
    )


_BUILDERS: Mapping[str, Callable[[Any], ExitNetwork]] = {
    "mask2former": build_mask2former,
    "detr": build_detr,
    "maskformer": build_maskformer,
}
"""What builds each kind of architecture."""
