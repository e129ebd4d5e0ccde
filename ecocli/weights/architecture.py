"""Read an architecture off a state dict: every size of a Mask2Former shows in its tensors' names and shapes.

Only head counts do not show (but for Swin's): those of the preset with these sizes are taken, else the published 8.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from ecocli.config.architecture import (
    ARCHITECTURES,
    ArchitectureConfig,
    DeformableEncoderConfig,
    EncoderConfig,
    HybridEncoderConfig,
    InterleavedEncoderConfig,
    NormName,
    PixelDecoderConfig,
    ResNetConfig,
    SwinConfig,
    TransformerDecoderConfig,
)
from ecocli.errors import DataError
from ecocli.weights.renaming import State

_HEADS = 8
_LEVELS = 3
_PIXEL = "sem_seg_head.pixel_decoder."
_LAYER = _PIXEL + "transformer.encoder.layers."
_PREDICTOR = "sem_seg_head.predictor."
UNNAMED = "imported"


def _shape(state: State, name: str, dimensions: int) -> tuple[int, ...]:
    tensor = state.get(name)
    if tensor is None or tensor.dim() != dimensions:
        found = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
        raise DataError(f"This is no Mask2Former with a ResNet or Swin backbone: {name} {found}.")
    return tuple(tensor.shape)


def count_layers(state: State, pattern: str) -> int:
    """Number of members of a numbered list of modules."""
    found = {int(match.group(1)) for name in state if (match := re.match(pattern, name))}
    if found != set(range(len(found))):
        raise DataError(f"The layers of {pattern.replace(chr(92), '')} are numbered {sorted(found)}, with gaps.")
    return len(found)


def _infer_resnet(state: State) -> ResNetConfig:
    blocks = tuple(count_layers(state, rf"backbone\.res{stage}\.(\d+)\.") for stage in (2, 3, 4, 5))
    norm: NormName = "gn"
    if "backbone.stem.conv1.norm.running_mean" in state:
        # Frozen statistics come without a step counter.
        counted = "backbone.stem.conv1.norm.num_batches_tracked" in state
        norm = "sync_bn" if counted else "frozen_bn"
    return ResNetConfig(
        blocks=blocks,  # type: ignore[arg-type]  # validated to be four counts from 1
        stem_channels=_shape(state, "backbone.stem.conv1.weight", 4)[0],
        res2_channels=_shape(state, "backbone.res2.0.conv3.weight", 4)[0],
        bottleneck_channels=_shape(state, "backbone.res2.0.conv1.weight", 4)[0],
        norm=norm,
    )


def _infer_swin(state: State) -> SwinConfig:
    first = "backbone.layers.0.blocks.0."
    embed_dim = _shape(state, "backbone.patch_embed.proj.weight", 4)[0]
    tables = [
        _shape(state, f"backbone.layers.{stage}.blocks.0.attn.relative_position_bias_table", 2) for stage in range(4)
    ]
    return SwinConfig(
        embed_dim=embed_dim,
        depths=tuple(count_layers(state, rf"backbone\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)),  # type: ignore[arg-type]  # as above
        num_heads=tuple(table[1] for table in tables),  # type: ignore[arg-type]  # as above
        window_size=(math.isqrt(tables[0][0]) + 1) // 2,
        mlp_ratio=_shape(state, first + "mlp.fc1.weight", 2)[0] / embed_dim,
        qkv_bias=first + "attn.qkv.bias" in state,
    )


def infer_backbone(state: State) -> ResNetConfig | SwinConfig:
    """Read the sizes of the backbone off a state dict."""
    return _infer_swin(state) if "backbone.patch_embed.proj.weight" in state else _infer_resnet(state)


def _infer_encoder(state: State) -> EncoderConfig:
    """A plain interleaved encoder has the tensors of a deformable one, and is taken for that."""
    layers = count_layers(state, re.escape(_LAYER) + r"(\d+)\.")
    if _LAYER + "0.aifi.linear1.weight" in state:
        width, channels = _shape(state, _LAYER + "0.aifi.linear1.weight", 2)
        return HybridEncoderConfig(
            heads=_HEADS,
            feedforward_dim=width,
            expansion=_shape(state, _LAYER + "0.fpn_blocks.0.conv1.conv.weight", 4)[0] / channels,
            fusion_depth=count_layers(state, re.escape(_LAYER) + r"0\.fpn_blocks\.0\.bottlenecks\.(\d+)\."),
        )
    points, remainder = divmod(_shape(state, _LAYER + "0.self_attn.attention_weights.weight", 2)[0], _HEADS * _LEVELS)
    if remainder or not points:
        raise DataError(f"The encoder's attention weights do not divide into {_HEADS} heads and {_LEVELS} levels.")
    width = _shape(state, _LAYER + "0.linear1.weight", 2)[0]
    if any(name.endswith(".linear12.weight") for name in state):
        return InterleavedEncoderConfig(layers=layers, points=points, feedforward_dim=width, small_ffn=True)
    return DeformableEncoderConfig(layers=layers, heads=_HEADS, points=points, feedforward_dim=width)


def infer_architecture(state: State, name: str = UNNAMED) -> ArchitectureConfig:
    """Read the sizes of a Mask2Former off its state dict.

    Args:
        state: Tensors by the original's names.
        name: What to call the architecture if no preset has these sizes.

    Returns:
        The preset with these sizes, with the checkpoint's class count, depth and norm; else what the sizes say.

    Raises:
        DataError: The tensors are not those of a Mask2Former.
    """
    queries, hidden_dim = _shape(state, _PREDICTOR + "query_feat.weight", 2)
    found = ArchitectureConfig(
        name=name,
        backbone=infer_backbone(state),
        pixel_decoder=PixelDecoderConfig(
            hidden_dim=hidden_dim,
            mask_dim=_shape(state, _PIXEL + "mask_features.weight", 4)[0],
            encoder=_infer_encoder(state),
        ),
        transformer_decoder=TransformerDecoderConfig(
            layers=count_layers(state, re.escape(_PREDICTOR) + r"transformer_ffn_layers\.(\d+)\."),
            heads=_HEADS,
            feedforward_dim=_shape(state, _PREDICTOR + "transformer_ffn_layers.0.linear1.weight", 2)[0],
            num_queries=queries,
        ),
        num_classes=_shape(state, _PREDICTOR + "class_embed.weight", 2)[0] - 1,
    )
    for preset in ARCHITECTURES.values():
        candidate = _with_heads_of(found, preset)
        if not architecture_differences(candidate, preset):
            return apply_preset(candidate, preset)
    return found


def infer_as_preset(state: State, preset: ArchitectureConfig) -> ArchitectureConfig:
    """Read a state dict as one of a preset.

    Args:
        state: Tensors by the original's names.

    Raises:
        DataError: The tensors are not those of a Mask2Former, or have other sizes than the preset.
    """
    return apply_preset(_with_heads_of(infer_architecture(state), preset), preset)


def _with_heads_of(found: ArchitectureConfig, preset: ArchitectureConfig) -> ArchitectureConfig:
    """The same architecture with a preset's heads and order of layers, which shapes cannot tell."""
    encoder, wanted = found.pixel_decoder.encoder, preset.pixel_decoder.encoder
    recast: object = encoder
    if isinstance(encoder, HybridEncoderConfig) or isinstance(wanted, HybridEncoderConfig):
        if encoder.kind == wanted.kind:
            recast = encoder.model_copy(update={"heads": wanted.heads})
        return _with_encoder(found, recast, preset)
    samples = encoder.heads * encoder.points
    if samples % wanted.heads:
        return found
    sizes = {"layers": encoder.layers, "points": samples // wanted.heads, "feedforward_dim": encoder.feedforward_dim}
    own_net = isinstance(encoder, InterleavedEncoderConfig) and encoder.small_ffn
    if isinstance(wanted, InterleavedEncoderConfig):
        recast = wanted.model_copy(update={**sizes, "small_ffn": own_net})
    else:
        recast = encoder if own_net else wanted.model_copy(update=sizes)
    return _with_encoder(found, recast, preset)


def _with_encoder(found: ArchitectureConfig, recast: object, preset: ArchitectureConfig) -> ArchitectureConfig:
    divided = found.pixel_decoder.model_copy(update={"encoder": recast})
    decoder = found.transformer_decoder.model_copy(update={"heads": preset.transformer_decoder.heads})
    return found.model_copy(update={"pixel_decoder": divided, "transformer_decoder": decoder})


def _flat(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sizes with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in sizes.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": of_inner for inner, of_inner in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def architecture_differences(found: ArchitectureConfig, expected: ArchitectureConfig) -> list[str]:
    """Sizes in which two architectures differ, as text; the class count, norms and training settings do not count.

    The number of encoder layers and the small net of the last one do not count either: a fixed-depth parent is the same
    architecture.
    """
    differences, free = [], ("norm", "drop_path_rate", "encoder.layers", "encoder.small_ffn")
    if found.backbone.kind != expected.backbone.kind:
        return [f"backbone.kind is {found.backbone.kind}, expected {expected.backbone.kind}"]
    for part in ("backbone", "pixel_decoder", "transformer_decoder"):
        ours, theirs = _flat(getattr(found, part).model_dump()), _flat(getattr(expected, part).model_dump())
        for key, value in ours.items():
            if key not in free and value != theirs.get(key):
                differences.append(f"{part}.{key} is {value}, expected {theirs.get(key)}")
    return differences


def apply_preset(found: ArchitectureConfig, preset: ArchitectureConfig) -> ArchitectureConfig:
    """The preset with what a checkpoint decides: class count, encoder layers, norm, pixel statistics.

    Raises:
        DataError: The checkpoint has other sizes than the preset.
    """
    differences = architecture_differences(found, preset)
    if differences:
        raise DataError(
            f"The checkpoint is of another model than {preset.name}: {'; '.join(differences)}. Leave --arch out to "
            "take the architecture from the checkpoint, or give the file of that model."
        )
    sizes = {
        name: getattr(found.pixel_decoder.encoder, name)
        for name in ("layers", "small_ffn")
        if hasattr(preset.pixel_decoder.encoder, name)
    }
    encoder = preset.pixel_decoder.encoder.model_copy(update=sizes)
    pixel = preset.pixel_decoder.model_copy(update={"encoder": encoder})
    update: dict[str, object] = {
        "num_classes": found.num_classes,
        "pixel_decoder": pixel,
        "pixel_mean": found.pixel_mean,
        "pixel_std": found.pixel_std,
    }
    if isinstance(preset.backbone, ResNetConfig) and isinstance(found.backbone, ResNetConfig):
        update["backbone"] = preset.backbone.model_copy(update={"norm": found.backbone.norm})
    return preset.model_copy(update=update)
