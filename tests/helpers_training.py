"""A model of a few thousand parameters, its settings, and drawn-in-memory training images."""

from typing import Any

import torch

from ecocli.config.loading import deep_merge, resolve_config
from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.training import TrainingSample
from ecocli.errors import DataError
from ecocli.model.builders import build_model
from ecocli.model.mask2former import Mask2Former
from ecocli.runtime.seeds import torch_generator

TINY_ARCHITECTURE: dict[str, Any] = {
    "name": "tiny",
    "backbone": {
        "kind": "resnet",
        "blocks": [1, 1, 1, 1],
        "stem_channels": 8,
        "res2_channels": 16,
        "bottleneck_channels": 8,
        "norm": "gn",
    },
    "pixel_decoder": {
        "hidden_dim": 32,
        "mask_dim": 16,
        "encoder": {"kind": "deformable", "layers": 3, "heads": 2, "points": 2, "feedforward_dim": 32},
    },
    "transformer_decoder": {"layers": 1, "heads": 2, "feedforward_dim": 32, "num_queries": 6},
    "num_classes": 3,
}

_TINY: dict[str, Any] = {
    "dataset": {},
    "architecture": TINY_ARCHITECTURE,
    "exit_depths": [1, 2, 3],
    "steps": 4,
    "batch_size": 4,
    "log_every": 1,
    "optimizer": {"lr": 2e-3, "backbone_lr_multiplier": 1.0, "clip_norm": 5.0},
    "schedule": {"kind": "constant"},
    "loss": {"num_points": 64},
    "execution": {"checkpoint_every": 2},
}


def tiny_config(**changes: Any) -> TrainParentConfig:
    """Settings for a few steps of the tiny model; a nested mapping changes single keys."""
    return resolve_config(TrainParentConfig, deep_merge(_TINY, changes))


def tiny_model(seed: int = 0) -> Mask2Former:
    """The tiny model with weights drawn from a seed."""
    torch.manual_seed(seed)
    return build_model(tiny_config().architecture)


class DrawnSamples:
    """Images of 64 x 64 with one to three bright rectangles, each a function of its index alone.

    Image ``bad``, if given, cannot be read; image ``empty`` has no object.
    """

    def __init__(self, count: int = 10, *, bad: int | None = None, empty: int | None = None) -> None:
        self._count = count
        self._bad = bad
        self._empty = empty

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: tuple[int, int]) -> TrainingSample:
        _, index = key
        if index == self._bad:
            raise DataError(f"image {index} cannot be read")
        generator = torch_generator("drawn", index)
        count = 0 if index == self._empty else int(torch.randint(1, 4, (1,), generator=generator))
        labels = torch.randint(0, 3, (count,), generator=generator)
        image = torch.randint(0, 60, (3, 64, 64), generator=generator).to(torch.uint8)
        masks = torch.zeros(count, 64, 64, dtype=torch.bool)
        for mask, label in zip(masks, labels.tolist(), strict=True):
            top, left = torch.randint(0, 40, (2,), generator=generator).tolist()
            mask[top : top + 24, left : left + 24] = True
            image[label][mask] = 220
        return TrainingSample(image, labels, masks, f"image-{index}")
