"""How the same tensor is called in other people's files. Data only; ``renaming.py`` applies it.

The left side is always the original Mask2Former's name, which is also ours. Placeholders in braces match alike on
both sides: ``{p}`` a parameter or statistic, ``{m}`` a module of the deformable attention, any other letter a number.
A tuple on the right is one fused tensor stored in parts, joined along its first axis.

Sources of the names: the state dicts of facebookresearch/Mask2Former, detectron2, torchvision and transformers, and
the checkpoints of Swin-Transformer, Transformer-SSL (MoBY) and DINO.
"""

from dataclasses import dataclass, field
from typing import Final

Rows = tuple[tuple[str, str | tuple[str, ...]], ...]

_QKV: Final = ("query", "key", "value")
_STAGES: Final = (2, 3, 4, 5)

# Hugging Face, `model.pixel_level_module.encoder.*` with a Swin backbone, against `backbone.*`.
HF_SWIN: Final[Rows] = (
    ("patch_embed.proj.{p}", "embeddings.patch_embeddings.projection.{p}"),
    ("patch_embed.norm.{p}", "embeddings.norm.{p}"),
    ("layers.{l}.blocks.{b}.norm1.{p}", "encoder.layers.{l}.blocks.{b}.layernorm_before.{p}"),
    (
        "layers.{l}.blocks.{b}.attn.relative_position_bias_table",
        "encoder.layers.{l}.blocks.{b}.attention.self.relative_position_bias_table",
    ),
    (
        "layers.{l}.blocks.{b}.attn.qkv.{p}",
        tuple(f"encoder.layers.{{l}}.blocks.{{b}}.attention.self.{name}.{{p}}" for name in _QKV),
    ),
    ("layers.{l}.blocks.{b}.attn.proj.{p}", "encoder.layers.{l}.blocks.{b}.attention.output.dense.{p}"),
    ("layers.{l}.blocks.{b}.norm2.{p}", "encoder.layers.{l}.blocks.{b}.layernorm_after.{p}"),
    ("layers.{l}.blocks.{b}.mlp.fc1.{p}", "encoder.layers.{l}.blocks.{b}.intermediate.dense.{p}"),
    ("layers.{l}.blocks.{b}.mlp.fc2.{p}", "encoder.layers.{l}.blocks.{b}.output.dense.{p}"),
    ("layers.{l}.downsample.reduction.weight", "encoder.layers.{l}.downsample.reduction.weight"),
    ("layers.{l}.downsample.norm.{p}", "encoder.layers.{l}.downsample.norm.{p}"),
    *((f"norm{s - 2}.{{p}}", f"hidden_states_norms.stage{s - 1}.{{p}}") for s in _STAGES),
)

# The same with a ResNet backbone.
HF_RESNET: Final[Rows] = (
    ("stem.conv1.weight", "embedder.embedder.convolution.weight"),
    ("stem.conv1.norm.{p}", "embedder.embedder.normalization.{p}"),
    *(
        row
        for s in _STAGES
        for row in (
            (f"res{s}.{{b}}.shortcut.weight", f"encoder.stages.{s - 2}.layers.{{b}}.shortcut.convolution.weight"),
            (f"res{s}.{{b}}.shortcut.norm.{{p}}", f"encoder.stages.{s - 2}.layers.{{b}}.shortcut.normalization.{{p}}"),
            *(
                pair
                for c in (1, 2, 3)
                for pair in (
                    (
                        f"res{s}.{{b}}.conv{c}.weight",
                        f"encoder.stages.{s - 2}.layers.{{b}}.layer.{c - 1}.convolution.weight",
                    ),
                    (
                        f"res{s}.{{b}}.conv{c}.norm.{{p}}",
                        f"encoder.stages.{s - 2}.layers.{{b}}.layer.{c - 1}.normalization.{{p}}",
                    ),
                )
            ),
        )
    ),
)

# Hugging Face, `model.pixel_level_module.decoder.*` against `sem_seg_head.pixel_decoder.*`.
HF_PIXEL_DECODER: Final[Rows] = (
    ("input_proj.{l}.{i}.{p}", "input_projections.{l}.{i}.{p}"),
    ("transformer.level_embed", "level_embed"),
    ("transformer.encoder.layers.{l}.self_attn.{m}.{p}", "encoder.layers.{l}.self_attn.{m}.{p}"),
    ("transformer.encoder.layers.{l}.norm1.{p}", "encoder.layers.{l}.self_attn_layer_norm.{p}"),
    ("transformer.encoder.layers.{l}.linear1.{p}", "encoder.layers.{l}.fc1.{p}"),
    ("transformer.encoder.layers.{l}.linear2.{p}", "encoder.layers.{l}.fc2.{p}"),
    ("transformer.encoder.layers.{l}.norm2.{p}", "encoder.layers.{l}.final_layer_norm.{p}"),
    ("mask_features.{p}", "mask_projection.{p}"),
    ("adapter_1.weight", "adapter_1.0.weight"),
    ("adapter_1.norm.{p}", "adapter_1.1.{p}"),
    ("layer_1.weight", "layer_1.0.weight"),
    ("layer_1.norm.{p}", "layer_1.1.{p}"),
)

# Hugging Face, from the top, against `sem_seg_head.predictor.*`.
_HF_LAYER: Final = "model.transformer_module.decoder.layers.{l}"
HF_PREDICTOR: Final[Rows] = (
    *(
        (
            f"transformer_self_attention_layers.{{l}}.self_attn.in_proj_{p}",
            tuple(f"{_HF_LAYER}.self_attn.{name}_proj.{p}" for name in "qkv"),
        )
        for p in ("weight", "bias")
    ),
    ("transformer_self_attention_layers.{l}.self_attn.out_proj.{p}", f"{_HF_LAYER}.self_attn.out_proj.{{p}}"),
    ("transformer_self_attention_layers.{l}.norm.{p}", f"{_HF_LAYER}.self_attn_layer_norm.{{p}}"),
    ("transformer_cross_attention_layers.{l}.multihead_attn.in_proj_weight", f"{_HF_LAYER}.cross_attn.in_proj_weight"),
    ("transformer_cross_attention_layers.{l}.multihead_attn.in_proj_bias", f"{_HF_LAYER}.cross_attn.in_proj_bias"),
    ("transformer_cross_attention_layers.{l}.multihead_attn.out_proj.{p}", f"{_HF_LAYER}.cross_attn.out_proj.{{p}}"),
    ("transformer_cross_attention_layers.{l}.norm.{p}", f"{_HF_LAYER}.cross_attn_layer_norm.{{p}}"),
    ("transformer_ffn_layers.{l}.linear1.{p}", f"{_HF_LAYER}.fc1.{{p}}"),
    ("transformer_ffn_layers.{l}.linear2.{p}", f"{_HF_LAYER}.fc2.{{p}}"),
    ("transformer_ffn_layers.{l}.norm.{p}", f"{_HF_LAYER}.final_layer_norm.{{p}}"),
    ("decoder_norm.{p}", "model.transformer_module.decoder.layernorm.{p}"),
    ("query_feat.weight", "model.transformer_module.queries_features.weight"),
    ("query_embed.weight", "model.transformer_module.queries_embedder.weight"),
    ("level_embed.weight", "model.transformer_module.level_embed.weight"),
    ("class_embed.{p}", "class_predictor.{p}"),
    ("mask_embed.layers.{l}.{p}", "model.transformer_module.decoder.mask_predictor.mask_embedder.{l}.0.{p}"),
)


def under(prefix: str, other: str, rows: Rows) -> Rows:
    """The same rows with a prefix on either side."""
    return tuple(
        (prefix + ours, tuple(other + t for t in theirs) if isinstance(theirs, tuple) else other + theirs)
        for ours, theirs in rows
    )


def layer_rows(ours: str, theirs: str, cross: bool) -> Rows:
    """The rows of DETR's layers, of the encoder's or with ``cross`` of the decoder's, which MaskFormer has too."""
    attentions = {"self_attn": "self_attn", **({"multihead_attn": "encoder_attn"} if cross else {})}
    norms = ("self_attn_layer_norm", *(("encoder_attn_layer_norm",) if cross else ()), "final_layer_norm")
    rows: list[tuple[str, str | tuple[str, ...]]] = []
    for name, other in attentions.items():
        rows += [
            (f"{ours}{name}.in_proj_{p}", tuple(f"{theirs}{other}.{letter}_proj.{p}" for letter in "qkv"))
            for p in ("weight", "bias")
        ]
        rows.append((f"{ours}{name}.out_proj.{{p}}", f"{theirs}{other}.o_proj.{{p}}"))
    rows += [(f"{ours}linear{i}.{{p}}", f"{theirs}mlp.fc{i}.{{p}}") for i in (1, 2)]
    rows += [(f"{ours}norm{i}.{{p}}", f"{theirs}{other}.{{p}}") for i, other in enumerate(norms, start=1)]
    return tuple(rows)


HF_MASK2FORMER: Final[Rows] = (
    *under("backbone.", "model.pixel_level_module.encoder.", HF_SWIN + HF_RESNET),
    *under("sem_seg_head.pixel_decoder.", "model.pixel_level_module.decoder.", HF_PIXEL_DECODER),
    *under("sem_seg_head.predictor.", "", HF_PREDICTOR),
)

# What a full Mask2Former file may hold beyond the model: constants, and tensors that nothing reads.
FULL_IGNORED: Final = (
    "criterion.empty_weight",
    "pixel_mean",
    "pixel_std",
    "model.pixel_level_module.encoder.swin.layernorm.*",
    "model.pixel_level_module.encoder.model.layernorm.*",
    "model.pixel_level_module.encoder.*.attention.self.relative_position_index",
)

# Names of older published files: (pattern, replacement) as regular expressions, applied first.
OLD_NAMES: Final = (
    (r"^sem_seg_head\.predictor\.static_query\.", "sem_seg_head.predictor.query_feat."),
    (r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)", "sem_seg_head.pixel_decoder."),
)

# torchvision's ResNet (and every file that keeps its names) against detectron2's.
TORCHVISION_RESNET: Final[Rows] = (
    ("stem.conv1.weight", "conv1.weight"),
    ("stem.conv1.norm.{p}", "bn1.{p}"),
    *(
        row
        for s in _STAGES
        for row in (
            (f"res{s}.{{b}}.shortcut.weight", f"layer{s - 1}.{{b}}.downsample.0.weight"),
            (f"res{s}.{{b}}.shortcut.norm.{{p}}", f"layer{s - 1}.{{b}}.downsample.1.{{p}}"),
            (f"res{s}.{{b}}.conv{{c}}.weight", f"layer{s - 1}.{{b}}.conv{{c}}.weight"),
            (f"res{s}.{{b}}.conv{{c}}.norm.{{p}}", f"layer{s - 1}.{{b}}.bn{{c}}.{{p}}"),
        )
    ),
)


# The names of Caffe2, in which MSRA's ResNets are published, against detectron2's. Their norms have a scale and a shift
# only; statistics are part of them.
CAFFE2_RESNET: Final[Rows] = (
    ("stem.conv1.weight", "conv1_w"),
    ("stem.conv1.norm.weight", "res_conv1_bn_s"),
    ("stem.conv1.norm.bias", "res_conv1_bn_b"),
    *(
        row
        for ours, theirs in (
            ("shortcut", "branch1"),
            ("conv1", "branch2a"),
            ("conv2", "branch2b"),
            ("conv3", "branch2c"),
        )
        for row in (
            (f"res{{s}}.{{b}}.{ours}.weight", f"res{{s}}_{{b}}_{theirs}_w"),
            (f"res{{s}}.{{b}}.{ours}.norm.weight", f"res{{s}}_{{b}}_{theirs}_bn_s"),
            (f"res{{s}}.{{b}}.{ours}.norm.bias", f"res{{s}}_{{b}}_{theirs}_bn_b"),
        )
    ),
)


@dataclass(frozen=True)
class BackboneSource:
    """A family of backbone-only checkpoints.

    Attributes:
        mark: The tensor that identifies the family, after the prefix.
        rows: Its names against ours; none where they are the same.
        ignored: Patterns of tensors that a backbone file may hold beyond the backbone.
        caffe2: Whether it is of MSRA's kind: stride in the first 1 x 1 convolution of a stage, blue first, pixels not
            divided by a deviation, norms without statistics.
    """

    name: str
    mark: str
    rows: Rows = ()
    ignored: tuple[str, ...] = field(default=())
    caffe2: bool = False


BACKBONE_SOURCES: Final = (
    BackboneSource("detectron2 ResNet", "stem.conv1.weight", ignored=("stem.fc.*",)),
    BackboneSource("torchvision ResNet", "conv1.weight", TORCHVISION_RESNET, ("fc.*",)),
    BackboneSource("MSRA ResNet", "conv1_w", CAFFE2_RESNET, ("fc1000_*", "conv1_b", "*_momentum"), caffe2=True),
    BackboneSource("Swin", "patch_embed.proj.weight", ignored=("norm.*", "head.*", "*.attn_mask")),
)

# Where a backbone sits in training checkpoints, and what stands beside it there: (prefix, ignored patterns).
BACKBONE_PREFIXES: Final = (
    ("", ()),
    ("module.", ()),
    ("backbone.", ("head.*",)),  # DINO's teacher
    ("module.backbone.", ("module.head.*",)),  # DINO's student
    ("encoder.", ("encoder_k.*", "projector.*", "projector_k.*", "predictor.*", "queue*")),  # MoBY
)

# Where the state dict sits in a file, first match wins; DINO evaluates its teacher, Caffe2 has blobs.
STATE_DICT_KEYS: Final = ("model", "state_dict", "teacher", "student", "blobs")

# Backbone tensors that a backbone-only file lacks by nature: Mask2Former's norms after each Swin stage, constants,
# counters.
NOT_IN_BACKBONES: Final = ("norm[0-3].*", "*.relative_position_index", "*.num_batches_tracked")
