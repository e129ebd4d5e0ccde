"""Swin Transformer backbone: feature maps at strides 4, 8, 16 and 32.

Shapes: B images, C channels, H W pixels (or cells of a stage's grid), N tokens of one window, heads and
windows by name. Source: Swin Transformer, arXiv 2103.14030; module names, padding and the norm after each
stage are those of Mask2Former's ``D2SwinTransformer``, so that published weights load without renaming.
Unlike the source, attention goes through ``scaled_dot_product_attention`` with position bias and shift mask
as one additive mask, and tokens stay on their grid [B, H, W, C] instead of being flattened between blocks.

Two details that decide whether published weights give published outputs: windows are padded with zeros
*after* the first norm, and padded tokens take part in the attention as ordinary keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

PATCH_SIZE = 4
# Added to the attention logits between cells that only the cyclic shift made neighbours. The source uses this
# finite value and not minus infinity; the difference is visible when a logit gap approaches it.
_SHIFT_PENALTY = -100.0
# Tokens that pass through attention or MLP at once where no gradient is wanted.
_TILE_TOKENS = 1024


def relative_position_index(window_size: int) -> Int[Tensor, "N N"]:
    """Row of the position-bias table for each pair of cells of a square window.

    Args:
        window_size: Side of the window in cells, so N = window_size squared.

    Returns:
        For query cell i and key cell j, an index in 0 .. (2 window_size - 1) squared - 1.
    """
    axis = torch.arange(window_size)
    cells = torch.cartesian_prod(axis, axis)
    offset = cells[:, None, :] - cells[None, :, :] + window_size - 1
    return offset[..., 0] * (2 * window_size - 1) + offset[..., 1]


def partition_windows(grid: Float[Tensor, "B H W C"], window_size: int) -> Float[Tensor, "windows N C"]:
    """Cut a grid whose sides are multiples of the window into windows, row-major within each image."""
    B, H, W, C = grid.shape
    rows, columns = H // window_size, W // window_size
    windows = grid.view(B, rows, window_size, columns, window_size, C).transpose(2, 3)
    return windows.reshape(B * rows * columns, window_size * window_size, C)


def merge_windows(
    windows: Float[Tensor, "windows N C"], window_size: int, height: int, width: int
) -> Float[Tensor, "B H W C"]:
    """Undo `partition_windows` for a padded grid of the given height and width in cells."""
    rows, columns = height // window_size, width // window_size
    grid = windows.view(-1, rows, columns, window_size, window_size, windows.shape[-1]).transpose(2, 3)
    return grid.reshape(-1, height, width, windows.shape[-1])


def shift_mask(
    height: int, width: int, window_size: int, shift: int, device: torch.device
) -> Float[Tensor, "windows N N"]:
    """Penalty between cells of one window that lie in different parts of the unshifted image.

    Args:
        height: Height of the padded grid in cells.
        width: Width of the padded grid in cells.
        window_size: Side of the window in cells.
        shift: Cyclic shift in cells.
        device: Where to build the mask.

    Returns:
        0 where attention is free, a large negative number elsewhere; the windows of one image.
    """
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    row_region = (rows >= height - window_size).int() + (rows >= height - shift).int()
    column_region = (columns >= width - window_size).int() + (columns >= width - shift).int()
    region = (3 * row_region[:, None] + column_region[None, :]).float()
    windows = partition_windows(region[None, :, :, None], window_size).squeeze(-1)
    return (windows[:, :, None] != windows[:, None, :]).float() * _SHIFT_PENALTY


@dataclass(frozen=True)
class WindowOrder:
    """How the cells of a grid lie in its windows.

    Attributes:
        cells: For each place in the windows, row-major, the cell that lies there; any cell where there is padding.
        padding: The places of padding.
        places: For each cell of the grid its place.
    """

    cells: Int[Tensor, " places"]
    padding: Int[Tensor, " _p"]
    places: Int[Tensor, " cells"]


@lru_cache(maxsize=32)
def window_order(height: int, width: int, window_size: int, shift: int, device: torch.device) -> WindowOrder:
    """Order of the cells of a grid after padding, cyclic shift and partition; cached by size."""
    with torch.inference_mode(False):
        cells = torch.arange(height * width, device=device, dtype=torch.float32).view(height, width, 1)
        padded = F.pad(cells, (0, 0, 0, -width % window_size, 0, -height % window_size), value=-1.0)
        shifted = padded.roll((-shift, -shift), dims=(0, 1))
        order = partition_windows(shifted[None], window_size).flatten().long()
        padding = (order < 0).nonzero().flatten()
        places = torch.empty(height * width, device=device, dtype=torch.int64)
        inside = (order >= 0).nonzero().flatten()
        places[order[inside]] = inside
        return WindowOrder(order.clamp(min=0), padding, places)


class WindowAttention(nn.Module):
    """Multi-head attention inside square windows with a learned bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, window_size: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(
        self, windows: Float[Tensor, "windows N C"], blocked: Float[Tensor, "image_windows N N"] | None
    ) -> Float[Tensor, "windows N C"]:
        """Attend within each window; ``blocked`` is the shift penalty of one image's windows, or None."""
        bias = self.bias()
        if blocked is not None:
            bias = (bias + blocked[:, None]).repeat(windows.shape[0] // blocked.shape[0], 1, 1, 1)
        return self.attend(windows, bias)

    def bias(self) -> Float[Tensor, "1 heads N N"]:
        """The learned bias of every pair of cells."""
        rows = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return rows.view(1, *self.relative_position_index.shape, self.num_heads).permute(0, 3, 1, 2)

    def attend(
        self, windows: Float[Tensor, "windows N C"], bias: Float[Tensor, "_ heads N N"]
    ) -> Float[Tensor, "windows N C"]:
        """Attend within each window; ``bias`` holds all that is added to the logits, of one or of every window."""
        count, N, C = windows.shape
        query, key, value = (
            self.qkv(windows).view(count, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(count, N, C))
        return projected


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, tokens: Float[Tensor, "*grid C"]) -> Float[Tensor, "*grid C"]:
        """Transform each token on its own."""
        transformed: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return transformed


class SwinBlock(nn.Module):
    """Window attention and MLP, both pre-norm with a residual; shifted windows when ``shift`` is not 0."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        shift: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window_size, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))

    def forward(
        self, grid: Float[Tensor, "B H W C"], blocked: Float[Tensor, "image_windows N N"]
    ) -> Float[Tensor, "B H W C"]:
        """Run the block; ``blocked`` is the stage's shift penalty, used only by shifted blocks."""
        if not torch.is_grad_enabled() and grid.device.type == "cpu":
            return torch.stack([self._forward_in_tiles(image, blocked if self.shift else None) for image in grid])
        H, W = grid.shape[1:3]
        bottom, right = -H % self.window_size, -W % self.window_size
        padded = F.pad(self.norm1(grid), (0, 0, 0, right, 0, bottom))
        if self.shift:
            padded = padded.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = partition_windows(padded, self.window_size)
        windows = self.attn(windows, blocked if self.shift else None)
        attended = merge_windows(windows, self.window_size, H + bottom, W + right)
        if self.shift:
            attended = attended.roll((self.shift, self.shift), dims=(1, 2))
        grid = grid + self._drop_path(attended[:, :H, :W])
        return grid + self._drop_path(self.mlp(self.norm2(grid)))

    def _forward_in_tiles(
        self, image: Float[Tensor, "H W C"], blocked: Float[Tensor, "windows N N"] | None
    ) -> Float[Tensor, "H W C"]:
        """The same for one image, a few windows and tokens at a time.

        Padding, shift and partition are one gather of rows, their undoing another; what lies between the products of
        attention and MLP stays in the cache.
        """
        H, W, C = image.shape
        order = window_order(H, W, self.window_size, self.shift, image.device)
        N = self.window_size**2
        cells = self.norm1(image).view(-1, C).index_select(0, order.cells)
        cells.index_fill_(0, order.padding, 0.0)
        windows = cells.view(-1, N, C)
        bias = self.attn.bias()
        for first in range(0, len(windows), max(1, _TILE_TOKENS // N)):
            tile = slice(first, first + max(1, _TILE_TOKENS // N))
            windows[tile] = self.attn.attend(windows[tile], bias if blocked is None else bias + blocked[tile, None])
        tokens: Tensor = cells.index_select(0, order.places).add_(image.reshape(-1, C))
        for first in range(0, H * W, _TILE_TOKENS):
            rows = tokens[first : first + _TILE_TOKENS]
            rows += self.mlp(self.norm2(rows))
        return tokens.view(H, W, C)

    def _drop_path(self, branch: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """In training, zero the branch of random images and scale up the others (stochastic depth)."""
        if not self.training or self.drop_path == 0.0:
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * kept.to(branch.dtype) / (1.0 - self.drop_path)


class PatchEmbedding(nn.Module):
    """Non-overlapping 4 x 4 patches to tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B H W C"]:
        """Embed patches; sides that are no multiple of the patch are padded with zeros right and below."""
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE))
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return tokens


class PatchMerging(nn.Module):
    """Halve the grid: each 2 x 2 group of tokens becomes one token of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, grid: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 C2"]:
        """Merge groups; odd sides are padded with zeros right and below."""
        H, W = grid.shape[1:3]
        grid = F.pad(grid, (0, 0, 0, W % 2, 0, H % 2))
        # Order of the group, as the weights expect it: top left, bottom left, top right, bottom right.
        corners = [grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one with shifted windows, then the halving (except last)."""

    def __init__(self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, grid: Float[Tensor, "B H W C"]) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H2 W2 C2"]]:
        """Return the stage's tokens and the input of the next stage (the same tokens after the last one)."""
        H, W = grid.shape[1:3]
        side, shift = self.window_size, self.window_size // 2
        blocked = shift_mask(H + -H % side, W + -W % side, side, shift, grid.device)
        for block in self.blocks:
            grid = block(grid, blocked)
        return grid, grid if self.downsample is None else self.downsample(grid)


class SwinTransformer(nn.Module):
    """Swin backbone with one normalised feature map per stage.

    Args:
        embed_dim: Channels of the first stage; doubled at each following one.
        depths: Blocks per stage.
        num_heads: Attention heads per stage.
        window_size: Side of the attention window in cells.
        mlp_ratio: Hidden channels of a block's MLP over its channels.
        qkv_bias: Whether the query, key and value projection has a bias.
        drop_path_rate: Stochastic-depth probability of the last block; it rises linearly from 0.

    Attributes:
        channels: Channels of ``res2`` to ``res5``.
        strides: Input pixels per cell of ``res2`` to ``res5``.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        names = [f"res{stage + 2}" for stage in range(len(depths))]
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        self.channels = dict(zip(names, widths, strict=True))
        self.strides = {name: PATCH_SIZE * 2**stage for stage, name in enumerate(names)}
        self.patch_embed = PatchEmbedding(embed_dim)
        total = sum(depths)
        rates = iter([drop_path_rate * index / max(total - 1, 1) for index in range(total)])
        self.layers = nn.ModuleList()
        for stage, (depth, heads, width) in enumerate(zip(depths, num_heads, widths, strict=True)):
            blocks = [
                SwinBlock(
                    width,
                    heads,
                    window_size,
                    shift=window_size // 2 if index % 2 else 0,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    drop_path=next(rates),
                )
                for index in range(depth)
            ]
            downsample = PatchMerging(width) if stage + 1 < len(depths) else None
            self.layers.append(SwinStage(blocks, downsample, window_size))
            self.add_module(f"norm{stage}", nn.LayerNorm(width))
        self.apply(_initialise)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> dict[str, Float[Tensor, "B _ _ _"]]:
        """Compute the feature maps.

        Args:
            images: Normalised images of any size; right and bottom are padded inside where needed.

        Returns:
            ``res2`` to ``res5``, [B, C, ceil(H / stride), ceil(W / stride)] each.
        """
        features: dict[str, Tensor] = {}
        grid = self.patch_embed(images)
        for stage, (name, layer) in enumerate(zip(self.channels, self.layers, strict=True)):
            tokens, grid = layer(grid)
            normalised = self.get_submodule(f"norm{stage}")(tokens)
            features[name] = normalised.permute(0, 3, 1, 2)
        return features


def _initialise(module: nn.Module) -> None:
    """Truncated normal weights and zero biases for linear layers, as the source does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
