"""Writing graphs: what torch cannot trace is said."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ecocli.errors import UsageError
from ecocli.export.folder import write_graphs
from ecocli.export.graphs import GraphModule


class _FixedSize(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        # Stands for code that must know the size.
        if isinstance(image.shape[2], torch.SymInt):
            raise TypeError("a symbol is no size")
        return image + 1


def test_write_graphs__code_for_one_size__asks_for_the_size(tmp_path: Path) -> None:
    part = GraphModule("extract", _FixedSize(), ("image",), ("tokens",))
    with pytest.raises(UsageError, match=r"cannot trace extract for every size .* with --size HxW,HxW"):
        write_graphs([part], (64, 96), False, "onnx", tmp_path)
    assert torch.is_grad_enabled()
