"""DETR's weights under others' names: the original's ``.pth``, Hugging Face folders of before and since version 5.

Ours are the original's names, but for the backbone's (``ecocli.model.resnet``). What shows in the tensors' shapes is
read from them; heads and class names come from ``config.json``, and a dilated last stage shows nowhere in a ``.pth``.
transformers' ``auxiliary_loss=True`` computes another model (each layer's output is normalised before the next reads
it); a folder that has it is read as the published model it was converted from, and folders are written without it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save
from torch import Tensor

from ecocli.config.architecture import ResNetConfig
from ecocli.config.category import CategoryConfig
from ecocli.config.dataset import ResizeConfig
from ecocli.config.detr import DETR_ARCHITECTURES, DetrConfig
from ecocli.errors import DataError, UsageError
from ecocli.weights.architecture import UNNAMED
from ecocli.weights.files import PROCESSOR_FILE, SAFETENSORS_FILE, read_json
from ecocli.weights.mappings import HF_RESNET, TORCHVISION_RESNET, Rows, layer_rows, under
from ecocli.weights.processor import pixel_settings
from ecocli.weights.renaming import State, from_original, rename, to_original

_HEADS: Final = 8
ORIGINAL_MARK: Final = "transformer.decoder.norm.weight"
HF_MARK: Final = "class_labels_classifier.weight"
_ORIGINAL_BACKBONE: Final = "backbone.0.body."

# Hugging Face's names of before version 5, brought up to date first: (pattern, replacement).
_OLD_HF: Final = (
    (r"^model\.backbone\.conv_encoder\.", "model.backbone."),
    (r"^model\.backbone\.model\._backbone\.", "model.backbone.model."),
    (r"(\.layers\.\d+)\.fc([12])\.", r"\1.mlp.fc\2."),
    (r"(\.layers\.\d+\.\w+)\.out_proj\.", r"\1.o_proj."),
)


# Everything of a Hugging Face folder but the backbone, which is transformers' own ResNet or timm's.
_HF_HEADS: Final[Rows] = (
    ("input_proj.{p}", "model.input_projection.{p}"),
    ("query_embed.weight", "model.query_position_embeddings.weight"),
    *layer_rows("transformer.encoder.layers.{l}.", "model.encoder.layers.{l}.", cross=False),
    *layer_rows("transformer.decoder.layers.{l}.", "model.decoder.layers.{l}.", cross=True),
    ("transformer.decoder.norm.{p}", "model.decoder.layernorm.{p}"),
    ("class_embed.{p}", "class_labels_classifier.{p}"),
    ("bbox_embed.layers.{l}.{p}", "bbox_predictor.layers.{l}.{p}"),
)
HF_DETR: Final[Rows] = (*_HF_HEADS, *under("backbone.", "model.backbone.model.", HF_RESNET))
_HF_DETR_TIMM: Final[Rows] = (*_HF_HEADS, *under("backbone.", "model.backbone.model.", TORCHVISION_RESNET))


def recognise_detr(state: Mapping[str, Tensor]) -> tuple[str, State, tuple[str, ...]] | None:
    """Give a DETR's tensors our names.

    Args:
        state: Tensors by the names of the file.

    Returns:
        What the file is, its tensors by our names, and names that no DETR has; None for another model.
    """
    if HF_MARK in state:
        current = rename(state, _OLD_HF)
        is_timm = "model.backbone.model.conv1.weight" in current
        renamed, unknown = to_original(current, _HF_DETR_TIMM if is_timm else HF_DETR)
        return "Hugging Face DETR", renamed, unknown
    if ORIGINAL_MARK not in state or "bbox_embed.layers.0.weight" not in state:
        return None
    if not any(name.startswith(_ORIGINAL_BACKBONE) for name in state):
        return "DETR with this project's names", dict(state), ()
    renamed, unknown = to_original(
        {name: tensor for name, tensor in state.items() if name.startswith(_ORIGINAL_BACKBONE)},
        under("backbone.", _ORIGINAL_BACKBONE, TORCHVISION_RESNET),
    )
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(_ORIGINAL_BACKBONE)}
    return "DETR with the original names", rest | renamed, unknown


def infer_detr(state: State, name: str = UNNAMED, heads: int = _HEADS) -> DetrConfig:
    """Read the sizes of a DETR off its tensors.

    Args:
        state: Tensors by our names.
        name: What to call the architecture if no preset has these sizes.
        heads: Attention heads, which shapes cannot tell.

    Returns:
        The preset with these sizes and the file's class count, else what the sizes say.

    Raises:
        DataError: A tensor is missing.
    """

    def width(key: str, axis: int = 0) -> int:
        if key not in state or state[key].dim() <= axis:
            raise DataError(f"This is no DETR with a ResNet backbone: {key} is missing.")
        return int(state[key].shape[axis])

    def count(prefix: str) -> int:
        found = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
        return len(found)

    found = DetrConfig(
        name=name,
        backbone=ResNetConfig(
            blocks=tuple(count(f"backbone.res{stage}.") for stage in (2, 3, 4, 5)),  # type: ignore[arg-type]  # validated
            stem_channels=width("backbone.stem.conv1.weight"),
            res2_channels=width("backbone.res2.0.conv3.weight"),
            bottleneck_channels=width("backbone.res2.0.conv1.weight"),
            norm="frozen_bn" if "backbone.stem.conv1.norm.running_mean" in state else "gn",
            frozen_stages=2,
        ),
        hidden_dim=width("query_embed.weight", 1),
        heads=heads,
        encoder_layers=count("transformer.encoder.layers."),
        decoder_layers=count("transformer.decoder.layers."),
        feedforward_dim=width("transformer.encoder.layers.0.linear1.weight"),
        num_queries=width("query_embed.weight"),
        num_classes=width("class_embed.weight") - 1,
    )
    for preset in DETR_ARCHITECTURES.values():
        update = {"name": preset.name, "num_classes": preset.num_classes, "encoder_layers": preset.encoder_layers}
        if found.model_copy(update=update) == preset:
            return found.model_copy(update={"name": preset.name})
    return found


def infer_detr_as(arch: str, found: DetrConfig, state: State) -> DetrConfig:
    """Take a DETR for the preset of a name.

    Raises:
        DataError: It is another model.
    """
    named = DETR_ARCHITECTURES.get(arch)
    if named is not None:
        # Whether the last stage is dilated shows in no tensor, and classes are the data set's.
        free = {"backbone": named.backbone, "name": arch, "num_classes": named.num_classes}
        if infer_detr(state, arch, named.heads).model_copy(update=free) == named:
            return found.model_copy(update={"backbone": named.backbone, "name": arch})
    raise DataError(
        f"The checkpoint is of another model than {arch}: it is a {found.name} DETR. Leave --arch out to take the "
        "architecture from the checkpoint."
    )


def detr_from_folder(folder: Path, state: State) -> tuple[DetrConfig, tuple[str, ...]]:
    """Read the architecture and the class names of a Hugging Face DETR folder.

    Args:
        state: Its tensors by our names.

    Raises:
        DataError: The config is of a kind that our model does not compute.
    """
    origin = folder / "config.json"
    values: dict[str, Any] = read_json(origin)
    fixed = {"activation_function": "relu", "position_embedding_type": "sine", "num_channels": 3}
    for key, expected in fixed.items():
        if values.get(key, expected) != expected:
            raise DataError(f"{origin}: {key} is {values[key]!r}. Only {expected!r} is supported.")
    heads = [values.get(f"{part}_attention_heads", _HEADS) for part in ("encoder", "decoder")]
    if heads[0] != heads[1] or not isinstance(heads[0], int):
        raise DataError(f"{origin}: the encoder has {heads[0]} heads, the decoder {heads[1]}. Expected equal counts.")
    found = infer_detr(state, heads=heads[0])
    backbone = values.get("backbone_config")
    dilated = bool(values.get("dilation")) or (isinstance(backbone, dict) and backbone.get("output_stride") == 16)
    if dilated:
        found = found.model_copy(update={"backbone": found.backbone.model_copy(update={"dilate_res5": True})})
        if found.name != UNNAMED:
            found = found.model_copy(update={"name": f"{found.name}-dc5"})
    labels = values.get("id2label")
    labels = labels if isinstance(labels, dict) else {}
    names = tuple(str(labels.get(str(index), f"class {index}")) for index in range(found.num_classes))
    return found, names


def check_detr_expressible(config: DetrConfig) -> ResNetConfig:
    """Make sure that transformers has such a DETR, by its configuration alone, and return its backbone.

    Raises:
        UsageError: It has none.
    """
    backbone = config.backbone
    if (
        not isinstance(backbone, ResNetConfig)
        or backbone.norm == "gn"
        or backbone.dilate_res5
        or backbone.res2_channels != 4 * backbone.bottleneck_channels
    ):
        raise UsageError(
            "transformers builds a DETR on a ResNet with batch norm and stride 32 only, without timm; this one has "
            "group norm, a dilated last stage or another width. Export it with --format original."
        )
    return backbone


def write_detr_folder(
    config: DetrConfig, state: Mapping[str, Tensor], labels: Sequence[str], encoder_layers: int, resize: ResizeConfig
) -> dict[str, bytes]:
    """Write a Hugging Face DETR folder.

    Args:
        state: The model's state dict, cut to ``encoder_layers``.
        resize: The size rule that the model is evaluated with.

    Raises:
        UsageError: transformers has no such model.
    """
    backbone = check_detr_expressible(config)
    renamed, unknown = from_original(state, HF_DETR)
    if unknown:
        raise UsageError(f"transformers has no place for {', '.join(unknown[:5])}. Export with --format original.")
    values = {
        "model_type": "detr",
        "architectures": ["DetrForObjectDetection"],
        "use_timm_backbone": False,
        "backbone_config": {
            "model_type": "resnet",
            "layer_type": "bottleneck",
            "depths": list(backbone.blocks),
            "embedding_size": backbone.stem_channels,
            "hidden_sizes": [backbone.res2_channels * 2**stage for stage in range(4)],
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": backbone.stride_in_1x1,
            "out_features": ["stage4"],
        },
        "d_model": config.hidden_dim,
        "encoder_layers": encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.feedforward_dim,
        "decoder_ffn_dim": config.feedforward_dim,
        "num_queries": config.num_queries,
        "auxiliary_loss": False,
        "activation_function": "relu",
        "position_embedding_type": "sine",
        "dropout": 0.0,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "dtype": "float32",
    }
    processor: dict[str, object] = {
        "image_processor_type": "DetrImageProcessor",
        **pixel_settings(resize, config.pixel_mean, config.pixel_std),
        "do_pad": True,
    }
    # The norms are frozen there too: they have no step counters.
    renamed = {name: tensor for name, tensor in renamed.items() if not name.endswith(".num_batches_tracked")}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(renamed.items())}
    return {
        "config.json": (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode(),
        PROCESSOR_FILE: (json.dumps(processor, indent=2) + "\n").encode(),
        SAFETENSORS_FILE: save(tensors, metadata={"format": "pt"}),
    }


def class_labels(categories: Sequence[CategoryConfig], num_classes: int) -> tuple[str, ...]:
    """Name of every class: of its category, or "N/A" for a number between COCO's ids."""
    if num_classes == len(categories):
        return tuple(category.name for category in categories)
    names = {category.id: category.name for category in categories}
    return tuple(names.get(index, "N/A") for index in range(num_classes))


def to_original_detr(state: Mapping[str, Tensor]) -> State:
    """Rename a DETR's tensors to the original's names, as its ``.pth`` holds them under ``model``."""
    renamed, rest = from_original(state, under("backbone.", _ORIGINAL_BACKBONE, TORCHVISION_RESNET))
    return renamed | {name: state[name] for name in rest}
