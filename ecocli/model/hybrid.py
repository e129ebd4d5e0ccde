"""RT-DETR's hybrid encoder: attention on the coarsest level, then convolutions down and up across the levels.

Shapes: B images, N tokens (levels in the order stride 32, 16, 8, each row-major), C channels, H W cells of a map.
Source: RT-DETR (arXiv 2304.08069; lyuwenyu/RT-DETR at 068dfde, HybridEncoder); names inside a layer are the original's,
but for the attention, which is ``aifi``. Differences: the position table has its rows first, as tokens have (the
published one is transposed, which shows on maps that are not square), and is made for every size; where no gradient is
wanted, both branches of a RepVGG block run as one convolution and batch norms are folded.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ecocli.exits import ExitPlan
from ecocli.model.caching import cached_by_size
from ecocli.model.exit_encoder import ExitEncoder
from ecocli.model.layers import SyncBatchNorm2d, folded
from ecocli.model.sampling import SpatialShapes
from ecocli.model.transformer_decoder import Attention


@cached_by_size(maxsize=64)
def row_first_positions(height: int, width: int, channels: int, device: torch.device) -> Float[Tensor, "N C"]:
    """Sines and cosines of row, then of column, at C / 4 frequencies each (temperature 10,000), cached by size."""
    with torch.inference_mode(False):
        quarter = channels // 4
        frequency = 10000.0 ** -(torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
        rows = torch.arange(height, dtype=torch.float32, device=device)[:, None] * frequency
        columns = torch.arange(width, dtype=torch.float32, device=device)[:, None] * frequency
        of_row = torch.cat((rows.sin(), rows.cos()), dim=1)[:, None].expand(height, width, -1)
        of_column = torch.cat((columns.sin(), columns.cos()), dim=1)[None].expand(height, width, -1)
        return torch.cat((of_row, of_column), dim=2).reshape(height * width, channels)


class AttentionLayer(nn.Module):
    """RT-DETR's AIFI: self-attention among the tokens of one level, feed-forward; each with residual and norm."""

    def __init__(self, channels: int, heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, channels)
        self.norm2 = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens: Float[Tensor, "B N C"], positions: Float[Tensor, "N C"]) -> Float[Tensor, "B N C"]:
        """One layer; positions are added to queries and keys, not to values."""
        positioned = tokens + positions
        tokens = self.norm1(tokens + self.self_attn(positioned, positioned, tokens))
        normed: Tensor = self.norm2(tokens + self.linear2(F.gelu(self.linear1(tokens))))
        return normed


class ConvNormLayer(nn.Module):
    """Convolution and batch norm, with the original's names (``conv``, ``norm``)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        )
        self.norm = SyncBatchNorm2d(out_channels)

    @property
    def folds(self) -> bool:
        """Whether the norm is a fixed scale and shift, which can be put into the convolution."""
        return not self.norm.training and not torch.is_grad_enabled() and self.conv.weight.device.type != "meta"

    def weights(self) -> tuple[Float[Tensor, "O I k k"], Float[Tensor, " O"]]:
        """Kernel and bias of a convolution that does both."""
        return folded(self.conv.weight, self.norm)

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O Ho Wo"]:
        """Convolve and normalise."""
        if self.folds:
            return F.conv2d(x, *self.weights(), stride=self.conv.stride, padding=self.conv.padding)
        normed: Tensor = self.norm(self.conv(x))
        return normed


def normed_projection(in_channels: int, channels: int) -> ConvNormLayer:
    """RT-DETR's projection of a backbone map."""
    return ConvNormLayer(in_channels, channels, 1)


class RepVggBlock(nn.Module):
    """A 3 x 3 and a 1 x 1 convolution with norms, summed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormLayer(channels, channels, 3)
        self.conv2 = ConvNormLayer(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """One block; in inference the 1 x 1 kernel is added to the centre of the 3 x 3 one."""
        if not self.conv1.folds:
            return F.silu(self.conv1(x) + self.conv2(x))
        (kernel, bias), (centre, centre_bias) = self.conv1.weights(), self.conv2.weights()
        kernel[:, :, 1:2, 1:2] += centre
        return F.silu(F.conv2d(x, kernel, bias + centre_bias, padding=1))


class FusionBlock(nn.Module):
    """RT-DETR's CSPRepLayer: two maps concatenated become one, through RepVGG blocks beside a shortcut.

    Args:
        channels: C, of each of the two maps and of the result.
        expansion: Width of the blocks over C.
        depth: RepVGG blocks.
    """

    def __init__(self, channels: int, expansion: float, depth: int) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.conv1 = ConvNormLayer(2 * channels, hidden, 1)
        self.conv2 = ConvNormLayer(2 * channels, hidden, 1)
        self.bottlenecks = nn.Sequential(*(RepVggBlock(hidden) for _ in range(depth)))
        self.conv3 = ConvNormLayer(hidden, channels, 1) if hidden != channels else None

    def forward(self, first: Float[Tensor, "B C H W"], second: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Fuse two maps of one size."""
        joined = torch.cat((first, second), dim=1)
        summed: Tensor = self.bottlenecks(F.silu(self.conv1(joined))) + F.silu(self.conv2(joined))
        return summed if self.conv3 is None else F.silu(self.conv3(summed))


class HybridLayer(nn.Module):
    """The whole encoder as one step: attention on stride 32, fusion down to stride 8 and up again to stride 32."""

    def __init__(
        self, channels: int, levels: int, heads: int, feedforward_dim: int, expansion: float, fusion_depth: int
    ) -> None:
        super().__init__()
        steps = range(levels - 1)
        self.aifi = AttentionLayer(channels, heads, feedforward_dim)
        self.lateral_convs = nn.ModuleList(ConvNormLayer(channels, channels, 1) for _ in steps)
        self.fpn_blocks = nn.ModuleList(FusionBlock(channels, expansion, fusion_depth) for _ in steps)
        self.downsample_convs = nn.ModuleList(ConvNormLayer(channels, channels, 3, stride=2) for _ in steps)
        self.pan_blocks = nn.ModuleList(FusionBlock(channels, expansion, fusion_depth) for _ in steps)

    def forward(
        self, tokens: Float[Tensor, "B N C"], positions: Float[Tensor, "N32 C"], shapes: SpatialShapes
    ) -> Float[Tensor, "B N C"]:
        """Tokens of all levels to new ones."""
        coarsest, *finer = torch.split(tokens, [height * width for height, width in shapes], dim=1)
        levels = (self.aifi(coarsest, positions), *finer)
        current, *lower_maps = (_as_map(level, shape) for level, shape in zip(levels, shapes, strict=True))
        stored: list[Tensor] = []
        for lateral, fuse, lower in zip(self.lateral_convs, self.fpn_blocks, lower_maps, strict=True):
            stored.append(F.silu(lateral(current)))
            current = fuse(F.interpolate(stored[-1], scale_factor=2.0, mode="nearest"), lower)
        fused = [current]
        for downsample, fuse, upper in zip(self.downsample_convs, self.pan_blocks, reversed(stored), strict=True):
            current = fuse(F.silu(downsample(current)), upper)
            fused.append(current)
        return torch.cat([level.flatten(2).transpose(1, 2) for level in reversed(fused)], dim=1)


def _as_map(tokens: Float[Tensor, "B n C"], shape: tuple[int, int]) -> Float[Tensor, "B C H W"]:
    """Tokens seen as a map, channels last in memory."""
    return tokens.view(len(tokens), *shape, tokens.shape[2]).permute(0, 3, 1, 2)


class HybridEncoder(ExitEncoder):
    """RT-DETR's encoder behind the interface of one that has exits; it has one.

    Args:
        channels: C.
        levels: L, each of half the stride of the one before.
        expansion: Width of the fusion blocks over C.
        fusion_depth: RepVGG blocks of each fusion block.
        exits: Its only exit.
    """

    embeds_levels = False

    def __init__(
        self,
        channels: int,
        levels: int,
        heads: int,
        feedforward_dim: int,
        expansion: float,
        fusion_depth: int,
        exits: ExitPlan,
    ) -> None:
        layer = HybridLayer(channels, levels, heads, feedforward_dim, expansion, fusion_depth)
        super().__init__(exits, (layer,))
        self.channels = channels

    def positions(self, shapes: SpatialShapes, level_embed: Tensor | None) -> Float[Tensor, "N32 C"]:
        """Position of every token of the coarsest level."""
        return row_first_positions(*shapes[0], self.channels, next(self.parameters()).device)
