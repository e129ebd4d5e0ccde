"""Access to the tensors recorded from the original Mask2Former (shared/golden), for parity tests."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ecocli.config.architecture import (
    ArchitectureConfig,
    PixelDecoderConfig,
    ResNetConfig,
    TransformerDecoderConfig,
)
from ecocli.model.builders import build_model
from ecocli.model.mask2former import Mask2Former

# Configuration of golden_r50_small as its JSON gives it ("resolved").
R50_SMALL = ArchitectureConfig(
    name="golden-r50-small",
    backbone=ResNetConfig(stem_channels=8, res2_channels=32, bottleneck_channels=8),
    pixel_decoder=PixelDecoderConfig(hidden_dim=64, mask_dim=64),
    transformer_decoder=TransformerDecoderConfig(layers=3, feedforward_dim=128, num_queries=16),
    num_classes=12,
    object_mask_threshold=0.2,
    overlap_threshold=0.3,
)


def load_recording(shared_dir: Path, name: str) -> tuple[dict[str, Tensor], Any]:
    """Tensors and notes of a recording."""
    folder = shared_dir / "golden"
    return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())


class Golden:
    """A recording of Mask2Former."""

    def __init__(self, shared_dir: Path, name: str) -> None:
        self.tensors, self.notes = load_recording(shared_dir, name)

    def model(self, config: ArchitectureConfig) -> Mask2Former:
        """The recorded model, in eval mode; every recorded key must fit."""
        model = build_model(config)
        state = {
            key.removeprefix("state."): tensor
            for key, tensor in self.tensors.items()
            if key.startswith("state.") and key != "state.criterion.empty_weight"
        }
        model.load_state_dict(state, strict=True)
        return model.eval()
