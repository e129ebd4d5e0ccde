"""Hugging Face Mask2Former folders: their ``config.json`` against our architecture, in both directions.

transformers fixes some choices in code (four points, 32 groups, post-norm, exact GELU); a config that deviates is
refused instead of being read as something it is not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ecocli.config.architecture import (
    ARCHITECTURES,
    ArchitectureConfig,
    DeformableEncoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
    SwinConfig,
    TransformerDecoderConfig,
)
from ecocli.config.dataset import KEEP_SIZE, ResizeConfig
from ecocli.errors import DataError, UsageError
from ecocli.weights.architecture import UNNAMED, architecture_differences
from ecocli.weights.files import read_json
from ecocli.weights.processor import pixel_settings

_POINTS: Final = 4
_STAGES: Final = ("stage1", "stage2", "stage3", "stage4")
# What our model does; a folder with another value is another model.
_FIXED: Final[Mapping[str, object]] = {
    "model_type": "mask2former",
    "pre_norm": False,
    "enforce_input_projection": False,
    "activation_function": "relu",
    "common_stride": 4,
}
_FIXED_SWIN: Final[Mapping[str, object]] = {
    "patch_size": 4,
    "use_absolute_embeddings": False,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
_FIXED_RESNET: Final[Mapping[str, object]] = {
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
}


class _Reader:
    """Values of a JSON object, with an error that names file and key."""

    def __init__(self, values: Mapping[str, object], origin: str) -> None:
        self._values = values
        self._origin = origin

    def get(self, key: str, default: object, kind: type | tuple[type, ...]) -> Any:
        value = self._values.get(key)
        value = default if value is None else value
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise DataError(f"{self._origin}: {key} is {value!r}, which is no Mask2Former setting.")
        return value

    def four(self, key: str, default: Sequence[int]) -> tuple[int, int, int, int]:
        value = self.get(key, list(default), list)
        if len(value) != 4 or not all(type(item) is int and item > 0 for item in value):
            raise DataError(f"{self._origin}: {key} is {value!r}. Expected four counts.")
        return value[0], value[1], value[2], value[3]

    def check(self, fixed: Mapping[str, object]) -> None:
        for key, expected in fixed.items():
            found = self._values.get(key, expected)
            if found is not None and found != expected:
                raise DataError(f"{self._origin}: {key} is {found!r}. Only {expected!r} is supported.")


def _backbone_from(values: Mapping[str, object], origin: str) -> SwinConfig | ResNetConfig:
    reader = _Reader(values, origin)
    kind = values.get("model_type", "swin")
    if kind == "swin":
        reader.check(_FIXED_SWIN)
        return SwinConfig(
            embed_dim=reader.get("embed_dim", 96, int),
            depths=reader.four("depths", (2, 2, 6, 2)),
            num_heads=reader.four("num_heads", (3, 6, 12, 24)),
            window_size=reader.get("window_size", 7, int),
            mlp_ratio=float(reader.get("mlp_ratio", 4.0, (int, float))),
            qkv_bias=reader.get("qkv_bias", True, bool),
            drop_path_rate=float(reader.get("drop_path_rate", 0.1, (int, float))),
        )
    if kind == "resnet":
        reader.check(_FIXED_RESNET)
        widths = reader.four("hidden_sizes", (256, 512, 1024, 2048))
        if widths != tuple(widths[0] * 2**stage for stage in range(4)) or widths[0] % 4:
            raise DataError(f"{origin}: hidden_sizes are {list(widths)}. Expected widths that double at every stage.")
        return ResNetConfig(
            blocks=reader.four("depths", (3, 4, 6, 3)),
            stem_channels=reader.get("embedding_size", 64, int),
            res2_channels=widths[0],
            bottleneck_channels=widths[0] // 4,
            stride_in_1x1=reader.get("downsample_in_bottleneck", False, bool),
        )
    raise DataError(f"{origin}: the backbone is a {kind!r}. Only swin and resnet are supported.")


def _pixel_statistics(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Mean and standard deviation from the image processor's file, or nothing where it has none."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    values = read_json(path)
    statistics = {}
    for ours, theirs in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
        numbers = values.get(theirs)
        if isinstance(numbers, list) and len(numbers) == 3 and all(isinstance(n, int | float) for n in numbers):
            # Their files hold float32 texts such as 0.48500001430511475.
            red, green, blue = (round(255.0 * number, 3) for number in numbers)
            statistics[ours] = (red, green, blue)
    return statistics


def architecture_from_folder(folder: Path) -> tuple[ArchitectureConfig, tuple[str, ...]]:
    """Read the architecture and the label of each class index of a Hugging Face Mask2Former folder.

    Args:
        folder: Has a ``config.json``; pixel mean and std come from ``preprocessor_config.json`` where present.

    Raises:
        DataError: The config is no Mask2Former's, or of a kind that our model does not compute.
    """
    origin = str(folder / "config.json")
    values = read_json(folder / "config.json")
    reader = _Reader(values, origin)
    reader.check(_FIXED)
    if "model_type" not in values:
        raise DataError(f"{origin} names no model_type. Expected 'mask2former'.")
    backbone = reader.get("backbone_config", {}, dict)
    hidden_dim = reader.get("hidden_dim", 256, int)
    if reader.get("feature_size", 256, int) != hidden_dim:
        raise DataError(f"{origin}: feature_size and hidden_dim differ. Only equal sizes are supported.")
    labels = reader.get("id2label", {}, dict)
    names = tuple(str(labels.get(str(index), f"class {index}")) for index in range(len(labels)))
    if not names:
        raise DataError(f"{origin} has no id2label. Expected one label per class.")
    heads = reader.get("num_attention_heads", 8, int)
    found = ArchitectureConfig(
        name=UNNAMED,
        backbone=_backbone_from(backbone, origin),
        pixel_decoder=PixelDecoderConfig(
            hidden_dim=hidden_dim,
            mask_dim=reader.get("mask_feature_size", 256, int),
            encoder=DeformableEncoderConfig(
                layers=reader.get("encoder_layers", 6, int),
                heads=heads,
                points=_POINTS,
                feedforward_dim=reader.get("encoder_feedforward_dim", 1024, int),
            ),
        ),
        transformer_decoder=TransformerDecoderConfig(
            # They count the prediction from the raw queries as a layer.
            layers=reader.get("decoder_layers", 10, int) - 1,
            heads=heads,
            feedforward_dim=reader.get("dim_feedforward", 2048, int),
            num_queries=reader.get("num_queries", 100, int),
        ),
        num_classes=len(names),
    ).model_copy(update=_pixel_statistics(folder))
    for preset in ARCHITECTURES.values():
        if not architecture_differences(found, preset):
            found = found.model_copy(update={"name": preset.name})
            break
    return found, names


def _backbone_to(backbone: SwinConfig | ResNetConfig) -> dict[str, object]:
    common: dict[str, object] = {"out_features": list(_STAGES), "num_channels": 3}
    if isinstance(backbone, SwinConfig):
        return common | {
            "model_type": "swin",
            "embed_dim": backbone.embed_dim,
            "depths": list(backbone.depths),
            "num_heads": list(backbone.num_heads),
            "window_size": backbone.window_size,
            "mlp_ratio": backbone.mlp_ratio,
            "qkv_bias": backbone.qkv_bias,
            "drop_path_rate": backbone.drop_path_rate,
            "image_size": 384 if backbone.window_size == 12 else 224,
        }
    return common | {
        "model_type": "resnet",
        "layer_type": "bottleneck",
        "depths": list(backbone.blocks),
        "embedding_size": backbone.stem_channels,
        "hidden_sizes": [backbone.res2_channels * 2**stage for stage in range(4)],
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": backbone.stride_in_1x1,
    }


def check_expressible(architecture: ArchitectureConfig) -> None:
    """Make sure that transformers has such a model, by its configuration alone.

    Raises:
        UsageError: It has none.
    """
    encoder, heads = architecture.pixel_decoder.encoder, architecture.transformer_decoder.heads
    if not isinstance(encoder, DeformableEncoderConfig):
        raise UsageError(
            f"The encoder is of the kind {encoder.kind}; transformers computes Mask2Former's alone, the kind "
            "deformable. Export with --format original."
        )
    if encoder.points != _POINTS or encoder.heads != heads:
        raise UsageError(
            f"The encoder has {encoder.points} points and {encoder.heads} heads, the decoder {heads} "
            "heads; transformers builds only 4 points and equal heads. Export with --format original."
        )
    backbone = architecture.backbone
    if isinstance(backbone, ResNetConfig) and (
        backbone.norm == "gn" or backbone.res2_channels != 4 * backbone.bottleneck_channels
    ):
        raise UsageError(
            "This ResNet has group norm or another bottleneck width than a quarter of its stage, which transformers "
            "cannot build. Export it with --format original."
        )


def folder_configs(
    architecture: ArchitectureConfig,
    labels: Sequence[str],
    encoder_layers: int,
    resize: ResizeConfig = KEEP_SIZE,
) -> dict[str, dict[str, object]]:
    """Write an architecture as the JSON files of a Hugging Face folder.

    Args:
        encoder_layers: Encoder layers of the exported model, which may be cut at an exit.
        resize: How images are resized for this model; by default they keep their size.

    Returns:
        Content of ``config.json`` and ``preprocessor_config.json`` by file name.

    Raises:
        UsageError: transformers has no such model.
    """
    pixel, transformer = architecture.pixel_decoder, architecture.transformer_decoder
    encoder = pixel.encoder
    check_expressible(architecture)
    assert isinstance(encoder, DeformableEncoderConfig)
    config: dict[str, object] = dict(_FIXED) | {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "backbone_config": _backbone_to(architecture.backbone),
        "feature_size": pixel.hidden_dim,
        "hidden_dim": pixel.hidden_dim,
        "mask_feature_size": pixel.mask_dim,
        "encoder_layers": encoder_layers,
        "encoder_feedforward_dim": encoder.feedforward_dim,
        "num_attention_heads": encoder.heads,
        "decoder_layers": transformer.layers + 1,
        "dim_feedforward": transformer.feedforward_dim,
        "num_queries": transformer.num_queries,
        "feature_strides": [4, 8, 16, 32],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "dropout": 0.0,
        "dtype": "float32",
    }
    processor: dict[str, object] = {
        "image_processor_type": "Mask2FormerImageProcessor",
        **pixel_settings(resize, architecture.pixel_mean, architecture.pixel_std),
        "size_divisor": 32,
        "ignore_index": 255,
        "do_reduce_labels": False,
        "num_labels": len(labels),
    }
    return {"config.json": config, "preprocessor_config.json": processor}
