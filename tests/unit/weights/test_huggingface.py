"""Hugging Face configs: what is read, what is refused, what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers_weights import RESNET, SWIN

from ecocli.config.architecture import (
    ARCHITECTURES,
    ArchitectureConfig,
    DeformableEncoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
)
from ecocli.errors import DataError, UsageError
from ecocli.weights.huggingface import architecture_from_folder, folder_configs

LABELS = ("person", "car", "sky", "grass")


def folder_with(tmp_path: Path, change: dict[str, Any] | None = None, backbone: dict[str, Any] | None = None) -> Path:
    files: dict[str, Any] = folder_configs(SWIN, LABELS, 3)
    files["config.json"] |= change or {}
    files["config.json"]["backbone_config"] |= backbone or {}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    "architecture",
    [SWIN, RESNET, ARCHITECTURES["m2f-r50"], ARCHITECTURES["m2f-swin-b-384"]],
    ids=lambda architecture: architecture.name,
)
def test_folder_configs__read_back__same_architecture(architecture: ArchitectureConfig, tmp_path: Path) -> None:
    labels = [f"label {index}" for index in range(architecture.num_classes)]
    layers = architecture.pixel_decoder.encoder.layers
    for name, content in folder_configs(architecture, labels, layers).items():
        (tmp_path / name).write_text(json.dumps(content))
    found, names = architecture_from_folder(tmp_path)
    known = architecture.name in ARCHITECTURES
    assert found == architecture.model_copy(update={} if known else {"name": "imported"})
    assert names == tuple(labels)


def test_architecture_from_folder__published_swin_tiny__defaults_filled(tmp_path: Path) -> None:
    # The keys that tell the published models apart, as the published folders of version 4 hold them; their image
    # processor writes float32 texts.
    config = {
        "model_type": "mask2former",
        "backbone_config": {"model_type": "swin", "depths": [2, 2, 6, 2], "drop_path_rate": 0.3},
        "id2label": {str(index): f"c{index}" for index in range(133)},
        "decoder_layers": 10,
        "num_queries": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_mean": [0.48500001430511475, 0.4560000002384186, 0.4059999883174896],
                "image_std": [0.2290000021457672, 0.2239999920129776, 0.22499999403953552],
            }
        )
    )
    found, _ = architecture_from_folder(tmp_path)
    assert found == ARCHITECTURES["m2f-swin-t"]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"model_type": "maskformer"}, "model_type is 'maskformer'. Only 'mask2former'"),
        ({"pre_norm": True}, "pre_norm is True. Only False"),
        ({"common_stride": 8}, "common_stride is 8. Only 4"),
        ({"feature_size": 64}, "feature_size and hidden_dim differ"),
        ({"id2label": {}}, "has no id2label"),
        ({"num_queries": "many"}, "num_queries is 'many', which is no Mask2Former setting"),
        ({"num_queries": True}, "num_queries is True, which is no Mask2Former setting"),
    ],
)
def test_architecture_from_folder__other_model__refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        architecture_from_folder(folder_with(tmp_path, change))


@pytest.mark.parametrize(
    "backbone,message",
    [
        ({"model_type": "convnext"}, "the backbone is a 'convnext'"),
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings is True"),
        ({"depths": [1, 2, 3]}, r"depths is \[1, 2, 3\]. Expected four counts"),
        ({"model_type": "resnet", "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1]}, "widths that double"),
        ({"model_type": "resnet", "layer_type": "basic"}, "layer_type is 'basic'"),
    ],
)
def test_architecture_from_folder__other_backbone__refused(
    backbone: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        architecture_from_folder(folder_with(tmp_path, backbone=backbone))


def test_architecture_from_folder__no_model_type__refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="names no model_type"):
        architecture_from_folder(tmp_path)


def test_folder_configs__group_norm__not_in_transformers() -> None:
    grouped = RESNET.model_copy(update={"backbone": RESNET.backbone.model_copy(update={"norm": "gn"})})
    with pytest.raises(UsageError, match="group norm"):
        folder_configs(grouped, LABELS, 3)


def test_folder_configs__other_bottleneck_width__not_in_transformers() -> None:
    wide = RESNET.model_copy(update={"backbone": ResNetConfig(bottleneck_channels=128)})
    with pytest.raises(UsageError, match="another bottleneck width"):
        folder_configs(wide, LABELS, 3)


def test_folder_configs__other_points__not_in_transformers() -> None:
    odd = SWIN.model_copy(update={"pixel_decoder": PixelDecoderConfig(encoder=DeformableEncoderConfig(points=2))})
    with pytest.raises(UsageError, match="2 points and 8 heads"):
        folder_configs(odd, LABELS, 3)
