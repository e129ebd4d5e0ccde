"""RT-DETR checkpoints: their hybrid encoder, under the names that RT-M2F gives it.

Sources: lyuwenyu/RT-DETR (068dfde; versions 1 and 2 name the projections differently) and transformers' RTDetr models,
of version 5 and before. Backbone and decoder are left out: the former is another ResNet than Mask2Former's, the latter
predicts boxes.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from ecocli.weights.mappings import Rows
from ecocli.weights.renaming import State, to_original

_PIXEL = "sem_seg_head.pixel_decoder."
_LAYER = _PIXEL + "transformer.encoder.layers.0."
_ATTENTION = _LAYER + "aifi."
_LEVELS = 3


def _projections(prefix: str, convolution: str, norm: str) -> Rows:
    """Theirs go from stride 8 to 32, ours from 32 to 8."""
    return tuple(
        (f"{_PIXEL}input_proj.{_LEVELS - 1 - index}.{ours}", f"{prefix}{index}.{theirs}")
        for index in range(_LEVELS)
        for ours, theirs in (("conv.weight", f"{convolution}.weight"), ("norm.{p}", f"{norm}.{{p}}"))
    )


def _convolutions(prefix: str) -> Rows:
    return tuple(
        (_LAYER + name, prefix + name)
        for unit in (
            "lateral_convs.{n}",
            "downsample_convs.{n}",
            *(
                f"{way}_blocks.{{n}}.{unit}"
                for way in ("fpn", "pan")
                for unit in ("conv{k}", "bottlenecks.{i}.conv{k}")
            ),
        )
        for name in (f"{unit}.conv.weight", f"{unit}.norm.{{p}}")
    )


def _hf_attention(prefix: str, out: str, net: str) -> Rows:
    attention = prefix + "self_attn."
    return (
        (_ATTENTION + "self_attn.in_proj_{p}", tuple(f"{attention}{part}_proj.{{p}}" for part in "qkv")),
        (_ATTENTION + "self_attn.out_proj.{p}", f"{attention}{out}.{{p}}"),
        (_ATTENTION + "linear{n}.{p}", f"{prefix}{net}{{n}}.{{p}}"),
        (_ATTENTION + "norm1.{p}", prefix + "self_attn_layer_norm.{p}"),
        (_ATTENTION + "norm2.{p}", prefix + "final_layer_norm.{p}"),
    )


_ORIGINAL: Final[Rows] = (
    *_projections("encoder.input_proj.", "0", "1"),
    *_projections("encoder.input_proj.", "conv", "norm"),
    *(
        (_ATTENTION + name, "encoder.encoder.0.layers.0." + name)
        for name in ("self_attn.in_proj_{p}", "self_attn.out_proj.{p}", "linear{n}.{p}", "norm{n}.{p}")
    ),
    *_convolutions("encoder."),
)
_HUGGING_FACE: Final[Rows] = (
    *_projections("model.encoder_input_proj.", "0", "1"),
    *_hf_attention("model.encoder.aifi.0.layers.0.", "o_proj", "mlp.fc"),
    *_hf_attention("model.encoder.encoder.0.layers.0.", "out_proj", "fc"),
    *_convolutions("model.encoder."),
)


def recognise_rt_detr(state: Mapping[str, Tensor]) -> tuple[str, State, tuple[str, ...], tuple[str, ...]] | None:
    """Give the tensors of an RT-DETR's encoder our names.

    Args:
        state: Tensors by the names of the file.

    Returns:
        What the file is, the encoder's tensors by our names, names of its other parts, and names of its encoder that
        no RT-DETR has; None for another model.
    """
    for source, rows, prefixes in (
        ("RT-DETR encoder", _ORIGINAL, ("encoder.",)),
        ("Hugging Face RT-DETR encoder", _HUGGING_FACE, ("model.encoder.", "model.encoder_input_proj.")),
    ):
        if prefixes[0] + "lateral_convs.0.conv.weight" in state:
            encoder = {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}
            renamed, unknown = to_original(encoder, rows)
            return source, renamed, tuple(name for name in state if name not in encoder), unknown
    return None
