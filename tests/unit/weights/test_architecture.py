"""Architectures read off state dicts."""

import pytest
import torch
from helpers_weights import RESNET, SWIN, random_model

from ecocli.config.architecture import (
    ARCHITECTURES,
    ArchitectureConfig,
    DeformableEncoderConfig,
    InterleavedEncoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
)
from ecocli.errors import DataError
from ecocli.model.builders import build_model
from ecocli.weights.architecture import apply_preset, architecture_differences, infer_architecture, infer_as_preset


def on_meta(architecture: ArchitectureConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(build_model(architecture).state_dict())


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_infer_architecture__preset__found_again(name: str) -> None:
    # A plain Lite-M2F has exactly Mask2Former's tensors, and is taken for it.
    assert infer_architecture(on_meta(ARCHITECTURES[name])) == ARCHITECTURES[name.removeprefix("lite-")]


def test_infer_as_preset__mask2formers_tensors_as_lite_m2f__are_lite_m2f() -> None:
    wanted = ARCHITECTURES["lite-m2f-swin-t"]
    assert infer_as_preset(on_meta(ARCHITECTURES["m2f-swin-t"]), wanted) == wanted


def test_infer_architecture__small_ffn__is_lite_m2f_with_it() -> None:
    preset = ARCHITECTURES["lite-m2f-r50"]
    encoder = InterleavedEncoderConfig(small_ffn=True)
    wanted = preset.model_copy(update={"pixel_decoder": preset.pixel_decoder.model_copy(update={"encoder": encoder})})
    assert infer_architecture(on_meta(wanted)) == wanted


def test_infer_architecture__cityscapes_r50__class_count_and_norm_from_the_file() -> None:
    wanted = ARCHITECTURES["m2f-r50"].model_copy(update={"num_classes": 19, "backbone": ResNetConfig(norm="sync_bn")})
    assert infer_architecture(on_meta(wanted)) == wanted


def test_infer_architecture__fixed_depth_parent__encoder_layers_counted() -> None:
    wanted = ARCHITECTURES["m2f-swin-t"].model_copy(
        update={"pixel_decoder": PixelDecoderConfig(encoder=DeformableEncoderConfig(layers=3))}
    )
    assert infer_architecture(on_meta(wanted)) == wanted


@pytest.mark.parametrize("architecture", [SWIN, RESNET], ids=["swin", "resnet"])
def test_infer_architecture__unknown_size__every_size_found(architecture: ArchitectureConfig) -> None:
    found = infer_architecture(on_meta(architecture), name=architecture.name)
    assert found == architecture


def test_infer_as_preset__other_heads__divided_as_in_the_preset() -> None:
    # 8 heads with 4 points, or 4 heads with 8 points: the shapes are the same.
    halved = ARCHITECTURES["m2f-r50"].model_copy(
        update={"pixel_decoder": PixelDecoderConfig(encoder=DeformableEncoderConfig(heads=4, points=8))}
    )
    state = on_meta(halved)
    assert infer_architecture(state).pixel_decoder.encoder.heads == 8
    assert infer_as_preset(state, halved) == halved


def test_infer_as_preset__heads_that_do_not_divide__says_what_differs() -> None:
    odd = ARCHITECTURES["m2f-r50"].model_copy(
        update={"pixel_decoder": PixelDecoderConfig(encoder=DeformableEncoderConfig(heads=64, points=1))}
    )
    with pytest.raises(DataError, match=r"pixel_decoder\.encoder\.heads is 8, expected 64"):
        infer_as_preset(on_meta(ARCHITECTURES["m2f-r50"]), odd)


@pytest.mark.parametrize(
    "change,message",
    [
        ("sem_seg_head.predictor.query_feat.weight", r"no Mask2Former .*query_feat\.weight is missing"),
        ("backbone.patch_embed.proj.weight", r"backbone\.stem\.conv1\.weight is missing"),
        (
            "sem_seg_head.pixel_decoder.transformer.encoder.layers.1.",
            r"numbered \[0, 2\], with gaps",
        ),
    ],
)
def test_infer_architecture__tensors_missing__refused(change: str, message: str) -> None:
    state = {name: tensor for name, tensor in on_meta(SWIN).items() if not name.startswith(change)}
    with pytest.raises(DataError, match=message):
        infer_architecture(state)


def test_infer_architecture__wrong_dimensions__names_the_shape() -> None:
    state = on_meta(SWIN) | {"sem_seg_head.predictor.query_feat.weight": torch.ones(3)}
    with pytest.raises(DataError, match=r"query_feat\.weight has shape \(3,\)"):
        infer_architecture(state)


def test_infer_architecture__attention_of_other_heads__refused() -> None:
    name = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn.attention_weights.weight"
    with pytest.raises(DataError, match="do not divide into 8 heads and 3 levels"):
        infer_architecture(on_meta(SWIN) | {name: torch.ones(25, 32)})


def test_apply_preset__same_sizes__preset_with_the_files_classes_and_depth() -> None:
    found = ARCHITECTURES["m2f-r50"].model_copy(
        update={
            "name": "imported",
            "num_classes": 19,
            "backbone": ResNetConfig(norm="sync_bn"),
            "pixel_decoder": PixelDecoderConfig(encoder=DeformableEncoderConfig(layers=4)),
        }
    )
    applied = apply_preset(found, ARCHITECTURES["m2f-r50"])
    assert applied == found.model_copy(update={"name": "m2f-r50"})


def test_apply_preset__other_model__says_what_differs() -> None:
    found = infer_architecture(dict(random_model(SWIN).state_dict()))
    with pytest.raises(DataError, match=r"another model than m2f-swin-t: backbone\.embed_dim is 8, expected 96"):
        apply_preset(found, ARCHITECTURES["m2f-swin-t"])


def test_architecture_differences__other_backbone_kind__only_that() -> None:
    assert architecture_differences(SWIN, RESNET) == ["backbone.kind is swin, expected resnet"]
