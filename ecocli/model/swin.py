"""Swin Transformer backbone: feature maps at strides 4, 8, 16 and 32.

Shapes: B images, C channels, H W pixels (or cells of a stage's grid), N tokens of one window, heads and
windows by name. Source: Swin Transformer, arXiv 2103.14030; module names, padding and the norm after each
stage are those of Mask2Former's ``D2SwinTransformer``, so that published weights load without renaming.
Unlike the source, attention goes through ``scaled_dot_product_attention`` with position bias and shift mask
as one additive mask, and tokens stay on their grid [B, H, W, C] instead of being flattened between blocks. Stochastic
depth can follow a seed per image, so that an image loses the same branches whatever batch it is in.

Two details that decide whether published weights give published outputs: windows are padded with zeros
*after* the first norm, and padded tokens take part in the attention as ordinary keys.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ecocli.model.contracts import Backbone
from ecocli.model.windows import merge_windows, partition_windows, relative_position_index, shift_mask, window_order

PATCH_SIZE = 4
# The source cuts its normal draws off at 2, a hundred deviations away.
_INITIAL_STD = 0.02
# Tokens that pass through attention or MLP at once where no gradient is wanted.
_TILE_TOKENS = 1024


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
        nn.init.normal_(self.relative_position_bias_table, std=_INITIAL_STD)

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
        self,
        grid: Float[Tensor, "B H W C"],
        blocked: Float[Tensor, "image_windows N N"],
        kept: Bool[Tensor, "2 B"] | None = None,
    ) -> Float[Tensor, "B H W C"]:
        """Run the block.

        Args:
            blocked: The stage's shift penalty, used only by shifted blocks.
            kept: Which images keep the attention branch and which the MLP branch in training; drawn from torch's
                global generator where it is not given.
        """
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
        kept_attention, kept_mlp = (None, None) if kept is None else (kept[0], kept[1])
        grid = grid + self._drop_path(attended[:, :H, :W], kept_attention)
        return grid + self._drop_path(self.mlp(self.norm2(grid)), kept_mlp)

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

    def _drop_path(
        self, branch: Float[Tensor, "B H W C"], kept: Bool[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B H W C"]:
        """In training, zero the branch of random images and scale up the others (stochastic depth)."""
        if not self.training or self.drop_path == 0.0:
            return branch
        if kept is None:
            kept = torch.rand(branch.shape[0], device=branch.device) >= self.drop_path
        return branch * kept[:, None, None, None].to(branch.dtype) / (1.0 - self.drop_path)


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

    def forward(
        self, grid: Float[Tensor, "B H W C"], kept: Bool[Tensor, "depth 2 B"] | None = None
    ) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H2 W2 C2"]]:
        """Return the stage's tokens and the input of the next stage (the same tokens after the last one).

        Args:
            kept: For each block what ``SwinBlock.forward`` takes.
        """
        H, W = grid.shape[1:3]
        side, shift = self.window_size, self.window_size // 2
        blocked = shift_mask(H + -H % side, W + -W % side, side, shift, grid.device)
        for index, block in enumerate(self.blocks):
            grid = block(grid, blocked, None if kept is None else kept[index])
        return grid, grid if self.downsample is None else self.downsample(grid)


class SwinTransformer(Backbone):
    """Swin backbone with one normalised feature map per stage.

    Args:
        embed_dim: Channels of the first stage; doubled at each following one.
        window_size: Side of the attention window in cells.
        mlp_ratio: Hidden channels of a block's MLP over its channels.
        drop_path_rate: Stochastic-depth probability of the last block; it rises linearly from 0.

    Attributes:
        channels: Channels of ``res2`` to ``res5``.
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
        self.patch_embed = PatchEmbedding(embed_dim)
        total = sum(depths)
        self._depths = list(depths)
        self._rates = [drop_path_rate * index / max(total - 1, 1) for index in range(total)]
        # No buffer: where processes share a model, the first one's buffers replace those of the others.
        self._kept: Bool[Tensor, "blocks 2 B"] | None = None
        rates = iter(self._rates)
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

    def seed_drop_path(self, seeds: Sequence[int] | None) -> None:
        """Decide which branches the images of the next training batches lose, each image by its own seed.

        The decisions hold until the next call, so that a backward pass that computes activations again meets the same
        ones. Without any, every forward pass draws its own from torch's global generator.

        Args:
            seeds: One per image, in the order of the batch; None for the global generator.
        """
        if seeds is None or not any(self._rates):
            self._kept = None
            return
        # Drawn on the CPU: the same on every device.
        draws = [torch.rand(len(self._rates), 2, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        kept = torch.stack(draws, dim=-1) >= torch.tensor(self._rates)[:, None, None]
        self._kept = kept.to(self.patch_embed.proj.weight.device)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> dict[str, Float[Tensor, "B _ _ _"]]:
        """Compute the feature maps.

        Args:
            images: Normalised images of any size; right and bottom are padded inside where needed.

        Returns:
            ``res2`` to ``res5``, [B, C, ceil(H / stride), ceil(W / stride)] each.

        Raises:
            ValueError: In training, stochastic depth was seeded for another number of images.
        """
        kept = self._kept if self.training else None
        if kept is not None and kept.shape[2] != images.shape[0]:
            raise ValueError(
                f"stochastic depth was seeded for {kept.shape[2]} images, expected {images.shape[0]}: call "
                "seed_drop_path before each batch of another size"
            )
        kept_of_stages = [None] * len(self._depths) if kept is None else torch.split(kept, self._depths)
        features: dict[str, Tensor] = {}
        grid = self.patch_embed(images)
        for stage, (name, layer) in enumerate(zip(self.channels, self.layers, strict=True)):
            tokens, grid = layer(grid, kept_of_stages[stage])
            normalised = self.get_submodule(f"norm{stage}")(tokens)
            features[name] = normalised.permute(0, 3, 1, 2)
        return features


def _initialise(module: nn.Module) -> None:
    """Normal weights and zero biases for linear layers, as the source does."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=_INITIAL_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
