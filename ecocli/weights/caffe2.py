"""MSRA's ResNets, as Caffe2 trained them, to weights of a model that reads red first and normalised pixels.

Source of the differences: detectron2's model zoo (pixel mean 103.53, 116.28, 123.675 in the order blue, green, red, no
deviation; ``STRIDE_IN_1X1``) and its reader of Caffe2's names, which gives norms without statistics a mean of 0 and a
variance of 1.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ecocli.errors import DataError
from ecocli.weights.renaming import State

_STEM = "backbone.stem.conv1.weight"
_EPS = 1e-5


def adapt_msra(tensors: State, backbone: nn.Module, pixel_std: Sequence[float], origin: str) -> State:
    """Turn the stem's input channels around, scale them, and add the norms' statistics.

    Args:
        pixel_std: What the model divides each channel by, red first.

    Raises:
        DataError: The model has its strides elsewhere.
    """
    block = dict(backbone.named_modules()).get("res3.0.conv1")
    if isinstance(block, nn.Conv2d) and block.stride != (2, 2):
        raise DataError(
            f"{origin} is a ResNet of MSRA's, whose stages stride in their first 1 x 1 convolution. Give the model the "
            "same with --set architecture.backbone.stride_in_1x1=true, or take torchvision's weights."
        )
    adapted = dict(tensors)
    scale = torch.tensor(list(pixel_std)).view(1, 3, 1, 1)
    adapted[_STEM] = tensors[_STEM].flip(1) * scale
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            stem = name.removesuffix("weight")
            adapted[stem + "running_mean"] = torch.zeros_like(tensor)
            # With the norm's own epsilon exactly 1.
            adapted[stem + "running_var"] = torch.ones_like(tensor) - _EPS
    return adapted
