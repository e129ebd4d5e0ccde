"""Bottleneck ResNet with outputs res2..res5 at strides 4, 8, 16, 32.

Source: ResNet (arXiv 1512.03385) in detectron2's layout (modeling/backbone/resnet.py), whose state-dict names are
kept so that published Mask2Former weights fit. Widths and depths are arguments; one bottleneck block per stage is
the small backbone of the built-in data.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.config.architecture import NormName
from ecocli.model.contracts import Backbone
from ecocli.model.layers import NormedConv2d, make_norm


class Stem(nn.Module):
    """7 x 7 convolution and max pooling, stride 4 in all."""

    def __init__(self, channels: int, norm: NormName) -> None:
        super().__init__()
        self.conv1 = NormedConv2d(3, channels, 7, make_norm(norm, channels), stride=2)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H4 W4"]:
        """Images to the input of res2."""
        return F.max_pool2d(F.relu_(self.conv1(images)), kernel_size=3, stride=2, padding=1)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions around a shortcut (projected where the width changes)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bottleneck_channels: int,
        stride: int,
        norm: NormName,
        stride_in_1x1: bool,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = (
            NormedConv2d(in_channels, out_channels, 1, make_norm(norm, out_channels), stride=stride)
            if in_channels != out_channels
            else None
        )
        self.conv1 = NormedConv2d(
            in_channels, bottleneck_channels, 1, make_norm(norm, bottleneck_channels), stride=first
        )
        self.conv2 = NormedConv2d(
            bottleneck_channels,
            bottleneck_channels,
            3,
            make_norm(norm, bottleneck_channels),
            stride=second,
            dilation=dilation,
        )
        self.conv3 = NormedConv2d(bottleneck_channels, out_channels, 1, make_norm(norm, out_channels))

    def forward(self, x: Float[Tensor, "B C_in H_in W_in"]) -> Float[Tensor, "B C_out H_out W_out"]:
        """One residual block."""
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2(out))
        out = self.conv3(out)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out + shortcut)


class ResNet(Backbone):
    """Bottleneck ResNet.

    Args:
        res2_channels: Output width of res2; doubles with every stage.
        bottleneck_channels: Inner width of res2's blocks; doubles with every stage.
        stride_in_1x1: Whether a stage's stride is that of its first 1 x 1 convolution.
        dilate_res5: Leave res5 at stride 16. As in torchvision, which DETR's DC5 uses, its first block is not
            dilated and all later ones are.
        frozen_stages: Parts that are not trained, from the stem on.

    Attributes:
        channels: Width of each output by name, ``res2`` to ``res5``.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        stem_channels: int,
        res2_channels: int,
        bottleneck_channels: int,
        norm: NormName,
        stride_in_1x1: bool = False,
        dilate_res5: bool = False,
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        self.stem = Stem(stem_channels, norm)
        self.channels: dict[str, int] = {}
        in_channels = stem_channels
        for stage, count in enumerate(blocks):
            out_channels = res2_channels * 2**stage
            layers = []
            dilated = dilate_res5 and stage == 3
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 and not dilated else 1
                layers.append(
                    Bottleneck(
                        in_channels,
                        out_channels,
                        bottleneck_channels * 2**stage,
                        stride,
                        norm,
                        stride_in_1x1,
                        dilation=2 if dilated and index > 0 else 1,
                    )
                )
                in_channels = out_channels
            name = f"res{stage + 2}"
            self.add_module(name, nn.Sequential(*layers))
            self.channels[name] = out_channels
        for module in self.modules():
            if isinstance(module, NormedConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for frozen in (self.stem, *(self.get_submodule(name) for name in self.channels))[:frozen_stages]:
            frozen.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> dict[str, Float[Tensor, "B _c _h _w"]]:
        """Normalised images to the maps ``res2`` (stride 4) to ``res5`` (stride 32; 16 if dilated)."""
        maps: dict[str, Tensor] = {}
        x = self.stem(images)
        for name in self.channels:
            x = self.get_submodule(name)(x)
            maps[name] = x
        return maps
