"""Small building blocks shared by the model's parts: normalised convolutions, frozen batch norm, positions.

Shapes: B images, C channels, H W cells of a map. Source: detectron2 (layers/wrappers.py, layers/batch_norm.py)
and Mask2Former (position_encoding.py) for names and numbers, so that published weights fit; written anew.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ecocli.config.architecture import NormName
from ecocli.model.caching import cached_by_size


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and affine part, all of them buffers (nothing is trained)."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise with the stored statistics."""
        return torch.nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics should be those of all processes together.

    Alone it is plain batch norm, so that such a model trains in one process and on a CPU as well; torch's own
    synchronised one, which ``synchronise_norms`` puts in its place, runs on several GPUs only.
    """


def synchronise_norms(model: nn.Module) -> None:
    """Let every ``SyncBatchNorm2d`` of a model compute its statistics over all processes, each on its GPU.

    Parameters, buffers and names in the state dict stay.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SyncBatchNorm2d):
                # torch gives this method no types.
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]


def make_norm(name: NormName, channels: int) -> nn.Module:
    """Build the normalisation of that name.

    ``gn`` uses 32 groups where the width allows at least 8 channels each and fewer otherwise: with one channel
    per group a small map would lose its mean and scale altogether.
    """
    if name == "frozen_bn":
        return FrozenBatchNorm2d(channels)
    if name == "bn":
        return nn.BatchNorm2d(channels)
    if name == "sync_bn":
        return SyncBatchNorm2d(channels)
    return nn.GroupNorm(max(1, min(32, channels // 8)), channels)


class NormedConv2d(nn.Conv2d):
    """A convolution without bias whose normalisation is its child ``norm``, as in detectron2's state dicts."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm: nn.Module,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False
        )
        self.norm = norm

    def forward(self, input: Float[Tensor, "B C_in H_in W_in"]) -> Float[Tensor, "B C_out H_out W_out"]:
        """Convolve and normalise."""
        if self._folds(input):
            return self._forward_folded(input)
        normed: Tensor = self.norm(super().forward(input))
        return normed

    def _folds(self, input: Tensor) -> bool:
        """Whether scaling the weights is cheaper than scaling the outputs; only fixed statistics can be folded."""
        if torch.is_grad_enabled() or input.device.type != "cpu":
            return False
        fixed = isinstance(self.norm, FrozenBatchNorm2d) or (
            isinstance(self.norm, nn.BatchNorm2d) and not self.norm.training and self.norm.affine
        )
        outputs = input.shape[0] * input.shape[2] * input.shape[3] // (self.stride[0] * self.stride[1])
        return fixed and outputs >= self.weight[0].numel()

    def _forward_folded(self, input: Float[Tensor, "B C_in H_in W_in"]) -> Float[Tensor, "B C_out H_out W_out"]:
        """The same with the norm's scale in the weights and its shift as the bias."""
        assert isinstance(self.norm, FrozenBatchNorm2d | nn.BatchNorm2d)
        return nn.functional.conv2d(
            input,
            *folded(self.weight, self.norm),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )


def folded(
    weight: Float[Tensor, "O I kh kw"], norm: FrozenBatchNorm2d | nn.BatchNorm2d
) -> tuple[Float[Tensor, "O I kh kw"], Float[Tensor, " O"]]:
    """Kernel and bias of a convolution that normalises with the stored statistics as well."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


@cached_by_size(maxsize=64)
def sine_positions(
    height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "N C"]:
    """Sine position embedding of a map's cells in row-major order (N = H W), cached by size.

    Half of the channels encode the row, half the column, sine and cosine interleaved; rows and columns count from
    1 and are scaled to 2 pi at the far edge (temperature 10,000), as in Mask2Former's ``PositionEmbeddingSine``
    with ``normalize=True`` and nothing masked.
    """
    with torch.inference_mode(False):
        rows = torch.arange(1, height + 1, dtype=torch.float32, device=device) / (height + 1e-6)
        columns = torch.arange(1, width + 1, dtype=torch.float32, device=device) / (width + 1e-6)
        of_row = _interleave(rows, channels // 2)[:, None].expand(height, width, -1)
        of_column = _interleave(columns, channels // 2)[None].expand(height, width, -1)
        return torch.cat((of_row, of_column), dim=2).reshape(height * width, channels).to(dtype)


def masked_sine_positions(padding_mask: Bool[Tensor, "B H W"], channels: int) -> Float[Tensor, "B N C"]:
    """``sine_positions`` of images that are padded: rows and columns are counted over each image's own cells.

    Args:
        padding_mask: True on cells that are padding.
        channels: C.
    """
    own = (~padding_mask).float()
    rows, columns = own.cumsum(dim=1), own.cumsum(dim=2)
    rows = rows / (rows[:, -1:] + 1e-6)
    columns = columns / (columns[:, :, -1:] + 1e-6)
    halves = (_interleave(rows, channels // 2), _interleave(columns, channels // 2))
    return torch.cat(halves, dim=3).flatten(1, 2)


def _interleave(place: Float[Tensor, "*cells"], half: int) -> Float[Tensor, "*cells half"]:
    """Sine and cosine in turn of a place in 0..1 at ``half / 2`` frequencies."""
    exponent = torch.arange(half, dtype=torch.float32, device=place.device)
    frequency = 10000 ** (2 * torch.div(exponent, 2, rounding_mode="floor") / half)
    phase = (place * 2 * math.pi)[..., None] / frequency
    return torch.stack((phase[..., 0::2].sin(), phase[..., 1::2].cos()), dim=-1).flatten(-2)
