"""A small model with decided random weights and a few drawn scenes, for tests of inference, evaluation and reports."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ecocli.config.architecture import (
    ArchitectureConfig,
    DeformableEncoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
    TransformerDecoderConfig,
)
from ecocli.config.dataset import DatasetConfig
from ecocli.data.batching import ImageBatch
from ecocli.data.categories import SHAPES
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import PanopticDataset, Segment
from ecocli.inference.postprocess import PanopticRule
from ecocli.inference.predictor import ExitGate, ImagePrediction
from ecocli.model.builders import build_model
from ecocli.model.gate import Gate, pool_features
from ecocli.model.mask2former import Mask2Former
from ecocli.scoring.batches import TruePanoptic

EXIT_DEPTHS = (1, 2, 3)

TINY = ArchitectureConfig(
    name="tiny",
    backbone=ResNetConfig(blocks=(1, 1, 1, 1), stem_channels=8, res2_channels=16, bottleneck_channels=8, norm="gn"),
    pixel_decoder=PixelDecoderConfig(
        hidden_dim=32, mask_dim=32, encoder=DeformableEncoderConfig(layers=3, heads=4, feedforward_dim=32)
    ),
    transformer_decoder=TransformerDecoderConfig(layers=1, heads=4, feedforward_dim=32, num_queries=8),
    num_classes=len(SHAPES),
    object_mask_threshold=0.3,
    overlap_threshold=0.3,
)

RULE = PanopticRule(
    tuple(category.is_thing for category in SHAPES),
    tuple(category.id for category in SHAPES),
    TINY.object_mask_threshold,
    TINY.overlap_threshold,
)


def tiny_model(seed: int = 0, architecture: ArchitectureConfig = TINY) -> Mask2Former:
    """Build the model; its class scores are spread so that several queries are confident."""
    torch.manual_seed(seed)
    model = build_model(architecture).eval().requires_grad_(False)
    assert isinstance(model, Mask2Former)
    model.sem_seg_head.predictor.class_embed.weight.mul_(6.0)
    return model


def tiny_dataset_config(root: Path, val: int = 6) -> DatasetConfig:
    """Describe a data set of few small scenes below a folder."""
    return DatasetConfig.model_validate({"root": str(root), "shapes": {"train": 4, "val": val, "scenes": {"size": 64}}})


def tiny_dataset(root: Path, val: int = 6) -> PanopticDataset:
    """Draw the validation scenes."""
    return open_dataset(tiny_dataset_config(root, val), "val")


def splitting_gate(
    model: Mask2Former, batches: Sequence[ImageBatch], exit_depths: tuple[int, ...]
) -> tuple[ExitGate, list[int]]:
    """Make a gate that sends about half of some batches' images to the first exit and the others to the last.

    Returns:
        The gate, and the depth it chooses for each image.
    """
    with torch.no_grad():
        pooled = torch.cat(
            [pool_features(model.extract(batch.images), list(batch.image_sizes))["res5"] for batch in batches]
        )
    ordered = pooled.sort(dim=0).values
    half = pooled.shape[0] // 2
    # The channel with the widest gap in the middle decides.
    channel = int((ordered[half] - ordered[half - 1]).argmax())
    threshold = (ordered[half, channel] + ordered[half - 1, channel]) / 2
    gate = Gate(pooled.shape[1], len(exit_depths)).requires_grad_(False)
    gate.linear.weight.zero_()
    gate.linear.bias.fill_(-1e6)
    gate.linear.weight[-1, channel] = 1e3
    gate.linear.bias[-1] = -1e3 * threshold
    gate.linear.bias[0] = 0.0
    depths = [exit_depths[-1] if value > threshold else exit_depths[0] for value in pooled[:, channel].tolist()]
    return ExitGate(gate, "res5", exit_depths), depths


def own_truth(prediction: ImagePrediction) -> TruePanoptic:
    """Take a prediction for the truth, so that a model with random weights has something it gets right."""
    panoptic_map, segments = prediction.panoptic(RULE)
    return TruePanoptic(panoptic_map, [Segment(s.id, s.category_id, False, s.area, (0, 0, 1, 1)) for s in segments])
