"""RT-DETR's encoder weights under the names of its two versions and of transformers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ecocli.config.architecture import ARCHITECTURES, ArchitectureConfig
from ecocli.errors import DataError
from ecocli.model.builders import build_model
from ecocli.weights.architecture import infer_architecture
from ecocli.weights.loading import load_initial_weights, recognise

SMALL = ARCHITECTURES["rt-m2f-shapes"]
PIXEL = "sem_seg_head.pixel_decoder."
LAYER = PIXEL + "transformer.encoder.layers.0."


def published_names(state: dict[str, Tensor], version: int) -> dict[str, Tensor]:
    """The encoder of a state dict as RT-DETR's releases name it."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith(PIXEL + "input_proj."):
            index, kind, rest = name.removeprefix(PIXEL + "input_proj.").split(".")
            kind = kind if version == 2 else {"conv": "0", "norm": "1"}[kind]
            renamed[f"encoder.input_proj.{2 - int(index)}.{kind}.{rest}"] = tensor
        elif name.startswith(LAYER):
            renamed["encoder." + name.removeprefix(LAYER).replace("aifi.", "encoder.0.layers.0.")] = tensor
    return renamed


@pytest.mark.parametrize("version", [1, 2])
def test_load_initial_weights__rt_detr_checkpoint__fills_the_encoder_alone(tmp_path: Path, version: int) -> None:
    torch.manual_seed(0)
    source, model = build_model(SMALL), build_model(SMALL)
    published = published_names(source.state_dict(), version)
    published |= {"backbone.conv1.conv1_1.conv.weight": torch.zeros(1), "decoder.anchors": torch.zeros(1)}
    path = tmp_path / "rtdetr.pth"
    torch.save({"ema": {"module": published, "updates": 3}, "last_epoch": 1}, path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_initial_weights(model, path)
    assert set(report.ignored) == {"backbone.conv1.conv1_1.conv.weight", "decoder.anchors"}
    for name, tensor in model.state_dict().items():
        in_encoder = name.startswith((PIXEL + "input_proj.", LAYER))
        assert torch.equal(tensor, source.state_dict()[name] if in_encoder else before[name]), name
        assert (name in report.loaded) == in_encoder


def test_recognise__rt_detr_with_a_strange_tensor__is_refused() -> None:
    state = published_names(build_model(SMALL).state_dict(), 1) | {"encoder.third_path.weight": torch.zeros(1)}
    with pytest.raises(DataError, match=r"third_path"):
        recognise(state, "rt.pth")


@pytest.mark.parametrize("name", ["rt-m2f-r50", "rt-m2f-swin-t", "rt-m2f-shapes"])
def test_infer_architecture__rt_m2f__is_the_preset(name: str) -> None:
    preset = ARCHITECTURES[name]
    with torch.device("meta"):
        state = build_model(preset).state_dict()
    assert infer_architecture(state).model_dump(exclude={"object_mask_threshold"}) == preset.model_dump(
        exclude={"object_mask_threshold"}
    )


@pytest.mark.parametrize("name", ["lite-m2f-r50", "lite-m2f-swin-b"])
def test_build_model__lite_m2f__has_the_tensors_of_mask2former(name: str) -> None:
    def tensors(architecture: ArchitectureConfig) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {key: tensor.shape for key, tensor in build_model(architecture).state_dict().items()}

    assert tensors(ARCHITECTURES[name]) == tensors(ARCHITECTURES[name.removeprefix("lite-")])


def test_load_initial_weights__transformers_rt_detr__computes_the_same_encoder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = transformers.RTDetrConfig(
        backbone_config=transformers.RTDetrResNetConfig(
            embedding_size=16,
            hidden_sizes=[32, 64, 128, 256],
            depths=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_hidden_dim=64,
        encoder_in_channels=[64, 128, 256],
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        d_model=64,
        decoder_in_channels=[64, 64, 64],
        num_queries=10,
        decoder_layers=1,
    )
    peer = transformers.RTDetrForObjectDetection(config).eval()
    path = tmp_path / "peer.safetensors"
    save_file({name: tensor.clone() for name, tensor in peer.state_dict().items()}, path)
    model = build_model(SMALL).eval()
    load_initial_weights(model, path)
    levels = [torch.randn(2, channels, *size) for channels, size in ((64, (8, 12)), (128, (4, 6)), (256, (2, 3)))]
    decoder = model.sem_seg_head.pixel_decoder
    with torch.no_grad():
        projected = [peer.model.encoder_input_proj[index](level) for index, level in enumerate(levels)]
        expected = peer.model.encoder(projected)[0]
        maps = {"res2": torch.zeros(2, 32, 16, 24), **dict(zip(("res3", "res4", "res5"), levels, strict=True))}
        features = decoder.project(maps)
        (tokens,) = decoder.encode(features.tokens, features.shapes, (1,))
    for ours, theirs in zip(reversed(decoder.split(tokens, features.shapes)), expected, strict=True):
        torch.testing.assert_close(ours, theirs.flatten(2).transpose(1, 2), rtol=0, atol=1e-4)
