"""Square windows of a Swin Transformer: cutting a grid into them, putting it together, and what the shift forbids.

Shapes: B images, C channels, H W cells of a grid, N cells of one window. Source: Swin Transformer, arXiv 2103.14030.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ecocli.model.caching import cached_by_size

# Added to the attention logits between cells that only the cyclic shift made neighbours. The source uses this
# finite value and not minus infinity; the difference is visible when a logit gap approaches it.
_SHIFT_PENALTY = -100.0


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


@cached_by_size(maxsize=32)
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
