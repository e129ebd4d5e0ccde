"""A small Swin and a small ResNet Mask2Former with random weights."""

import torch

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.architecture import (
    ArchitectureConfig,
    DeformableEncoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
    SwinConfig,
    TransformerDecoderConfig,
)
from ecocli.model.builders import build_model
from ecocli.model.contracts import ExitModel

SWIN = ArchitectureConfig(
    name="small-swin",
    backbone=SwinConfig(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4),
    pixel_decoder=PixelDecoderConfig(
        hidden_dim=32, mask_dim=32, encoder=DeformableEncoderConfig(layers=3, feedforward_dim=32)
    ),
    transformer_decoder=TransformerDecoderConfig(layers=2, feedforward_dim=32, num_queries=6),
    num_classes=4,
)
RESNET = SWIN.model_copy(
    update={
        "name": "small-resnet",
        "backbone": ResNetConfig(blocks=(1, 1, 2, 1), stem_channels=8, res2_channels=16, bottleneck_channels=4),
    }
)


def random_model(architecture: AnyArchitecture, seed: int = 0) -> ExitModel:
    """A model in eval mode whose every float entry is random."""
    torch.manual_seed(seed)
    model = build_model(architecture).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn_like(tensor)
                tensor.copy_(0.5 + noise.abs() if name.endswith("running_var") else 0.2 * noise)
    return model
