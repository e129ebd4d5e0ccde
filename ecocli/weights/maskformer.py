"""MaskFormer's published weights: detectron2's files and Hugging Face's Swin folders, read.

Sources of the names: the state dicts of facebookresearch/MaskFormer and of transformers' MaskFormer. detectron2's are
ours. transformers has the pyramid alone, without the encoder of the panoptic R50 model: nothing is written for it.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ecocli.config.maskformer import MASKFORMER_ARCHITECTURES, MaskFormerConfig
from ecocli.errors import DataError
from ecocli.weights.architecture import UNNAMED, count_layers, infer_backbone
from ecocli.weights.files import read_json
from ecocli.weights.mappings import HF_RESNET, HF_SWIN, Rows, layer_rows, under
from ecocli.weights.renaming import State, rename, to_original

ORIGINAL_MARK: Final = "sem_seg_head.predictor.transformer.decoder.norm.weight"
HF_MARK: Final = "model.transformer_module.decoder.layernorm.weight"
_HF_OWN: Final = "model.pixel_level_module.decoder.fpn.stem.0.weight"
_HEADS: Final = 8
_PIXEL: Final = "sem_seg_head.pixel_decoder."
_PREDICTOR: Final = "sem_seg_head.predictor."

_HF_DECODER: Final = "model.transformer_module.decoder.layers.{l}."
_OUR_DECODER: Final = _PREDICTOR + "transformer.decoder.layers.{l}."
# Of the released folders; the library renames them on load.
_OLD_HF: Final = (
    (r"(\.(?:self_attn|encoder_attn))\.out_proj\.", r"\1.o_proj."),
    (r"(decoder\.layers\.\d+)\.(fc[12])\.", r"\1.mlp.\2."),
)


HF_MASKFORMER: Final[Rows] = (
    *under("backbone.", "model.pixel_level_module.encoder.", HF_SWIN + HF_RESNET),
    *under("backbone.", "model.pixel_level_module.encoder.model.", HF_SWIN + HF_RESNET),
    *((f"backbone.norm{n}.{{p}}", f"model.pixel_level_module.encoder.hidden_states_norms.{n}.{{p}}") for n in range(4)),
    (_PIXEL + "layer_4.weight", "model.pixel_level_module.decoder.fpn.stem.0.weight"),
    (_PIXEL + "layer_4.norm.{p}", "model.pixel_level_module.decoder.fpn.stem.1.{p}"),
    *(
        row
        for number, place in ((3, 0), (2, 1), (1, 2))
        for row in (
            (f"{_PIXEL}adapter_{number}.weight", f"model.pixel_level_module.decoder.fpn.layers.{place}.proj.0.weight"),
            (
                f"{_PIXEL}adapter_{number}.norm.{{p}}",
                f"model.pixel_level_module.decoder.fpn.layers.{place}.proj.1.{{p}}",
            ),
            (f"{_PIXEL}layer_{number}.weight", f"model.pixel_level_module.decoder.fpn.layers.{place}.block.0.weight"),
            (
                f"{_PIXEL}layer_{number}.norm.{{p}}",
                f"model.pixel_level_module.decoder.fpn.layers.{place}.block.1.{{p}}",
            ),
        )
    ),
    (_PIXEL + "mask_features.{p}", "model.pixel_level_module.decoder.mask_projection.{p}"),
    *layer_rows(_OUR_DECODER, _HF_DECODER, cross=True),
    (_PREDICTOR + "transformer.decoder.norm.{p}", "model.transformer_module.decoder.layernorm.{p}"),
    (_PREDICTOR + "query_embed.weight", "model.transformer_module.queries_embedder.weight"),
    (_PREDICTOR + "input_proj.{p}", "model.transformer_module.input_projection.{p}"),
    (_PREDICTOR + "class_embed.{p}", "class_predictor.{p}"),
    (_PREDICTOR + "mask_embed.layers.{l}.{p}", "mask_embedder.{l}.0.{p}"),
)


def recognise_maskformer(state: Mapping[str, Tensor]) -> tuple[str, State, tuple[str, ...]] | None:
    """Give a MaskFormer's tensors our names.

    Args:
        state: Tensors by the names of the file.

    Returns:
        What the file is, its tensors by our names, and names that no MaskFormer has; None for another model.
    """
    if _HF_OWN in state:
        return "Hugging Face MaskFormer", *to_original(rename(state, _OLD_HF), HF_MASKFORMER)
    if ORIGINAL_MARK in state:
        return "MaskFormer with the original names", dict(state), ()
    return None


def infer_maskformer(state: State, name: str = UNNAMED, heads: int = _HEADS) -> MaskFormerConfig:
    """Read the sizes of a MaskFormer off its tensors.

    Args:
        state: Tensors by our names.
        name: What to call the architecture if no preset has these sizes.
        heads: Attention heads, which shapes cannot tell.

    Returns:
        The preset with these sizes, with the file's class count, depth and norm; else what the sizes say.

    Raises:
        DataError: A tensor is missing.
    """

    def width(key: str, axis: int = 0, usual: int | None = None) -> int:
        if key not in state or state[key].dim() <= axis:
            if usual is not None:
                return usual
            raise DataError(f"This is no MaskFormer with a ResNet or Swin backbone: {key} is missing.")
        return int(state[key].shape[axis])

    layers = count_layers(state, re.escape(_PIXEL + "transformer.encoder.layers.") + r"(\d+)\.")
    feedforward_dim = width(_PREDICTOR + "transformer.decoder.layers.0.linear1.weight")
    found = MaskFormerConfig(
        name=name,
        backbone=infer_backbone(state),
        hidden_dim=width(_PREDICTOR + "query_embed.weight", 1),
        mask_dim=width(_PIXEL + "mask_features.weight"),
        heads=heads,
        encoder_layers=layers,
        encoder_feedforward_dim=width(_PIXEL + "transformer.encoder.layers.0.linear1.weight", 0, feedforward_dim),
        decoder_layers=count_layers(state, re.escape(_PREDICTOR + "transformer.decoder.layers.") + r"(\d+)\."),
        feedforward_dim=feedforward_dim,
        num_queries=width(_PREDICTOR + "query_embed.weight"),
        num_classes=width(_PREDICTOR + "class_embed.weight") - 1,
    )
    for preset in MASKFORMER_ARCHITECTURES.values():
        if _as_preset(found, preset, layers) == preset:
            # The preset's heads and thresholds, and what the file decides.
            free = {"num_classes": found.num_classes, "encoder_layers": layers, "backbone": found.backbone}
            return preset.model_copy(update=free)
    return found


def _as_preset(found: MaskFormerConfig, preset: MaskFormerConfig, layers: int) -> MaskFormerConfig | None:
    """What was found with all that a file decides or cannot tell taken from a preset; None without the same parts."""
    if found.backbone.kind != preset.backbone.kind or (layers == 0) != (preset.encoder_layers == 0):
        return None
    free = ("norm", "frozen_stages", "drop_path_rate", "dilate_res5", "stride_in_1x1")
    update = {name: getattr(preset.backbone, name) for name in free if hasattr(preset.backbone, name)}
    fixed = ("name", "num_classes", "heads", "pixel_mean", "pixel_std", "object_mask_threshold", "overlap_threshold")
    return found.model_copy(
        update={
            **{name: getattr(preset, name) for name in fixed},
            "encoder_layers": preset.encoder_layers,
            "backbone": found.backbone.model_copy(update=update),
        }
    )


def maskformer_from_folder(folder: Path, state: State) -> tuple[MaskFormerConfig, tuple[str, ...]]:
    """Read the architecture and the class names of a Hugging Face MaskFormer folder.

    Raises:
        DataError: The config is of a kind that our model does not compute.
    """
    origin = folder / "config.json"
    values: dict[str, Any] = read_json(origin)
    decoder = values.get("decoder_config")
    decoder = decoder if isinstance(decoder, dict) else {}
    for key, expected in {"activation_function": "relu"}.items():
        if decoder.get(key, expected) != expected:
            raise DataError(f"{origin}: decoder_config.{key} is {decoder[key]!r}. Only {expected!r} is supported.")
    heads = decoder.get("decoder_attention_heads", _HEADS)
    hidden = int(state[_PREDICTOR + "query_embed.weight"].shape[1])
    if not isinstance(heads, int) or heads < 1 or math.gcd(hidden, heads) != heads:
        raise DataError(f"{origin}: the decoder has {heads!r} heads, which do not divide {hidden} channels.")
    found = infer_maskformer(state, heads=heads)
    labels = values.get("id2label")
    labels = labels if isinstance(labels, dict) else {}
    names = tuple(str(labels.get(str(index), f"class {index}")) for index in range(found.num_classes))
    return found.model_copy(update={"heads": heads}), names


def infer_maskformer_as(arch: str, found: MaskFormerConfig) -> MaskFormerConfig:
    """Take a MaskFormer for the preset of a name.

    Raises:
        DataError: It is another model.
    """
    named = MASKFORMER_ARCHITECTURES.get(arch)
    if named is None or _as_preset(found, named, found.encoder_layers) != named:
        raise DataError(
            f"The checkpoint is of another model than {arch}: it is a {found.name} MaskFormer. Leave --arch out to "
            "take the architecture from the checkpoint."
        )
    return found.model_copy(update={"name": arch})
