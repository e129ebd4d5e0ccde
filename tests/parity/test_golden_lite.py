"""Lite-M2F against tensors recorded from Lite-DETR's encoder between the original Mask2Former's other parts."""

from pathlib import Path

import pytest
import torch
from parity.golden import R50_SMALL, Golden
from torch import Tensor

from ecocli.config.architecture import ArchitectureConfig, InterleavedEncoderConfig
from ecocli.model.builders import build_model
from ecocli.model.deformable import DeformableAttention
from ecocli.model.mask2former import Mask2Former

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}
EXITS = (2, 3, 4, 5)


def architecture(small_ffn: bool) -> ArchitectureConfig:
    encoder = InterleavedEncoderConfig(small_ffn=small_ffn)
    pixel = R50_SMALL.pixel_decoder.model_copy(update={"encoder": encoder})
    return R50_SMALL.model_copy(update={"pixel_decoder": pixel})


@pytest.fixture(scope="module")
def recording(shared_dir: Path) -> Golden:
    return Golden(shared_dir, "golden_lite_small")


@pytest.fixture(scope="module")
def base(shared_dir: Path) -> Golden:
    return Golden(shared_dir, "golden_r50_small")


@pytest.fixture(scope="module", params=[("plain", False), ("plain", True), ("small_ffn", False), ("small_ffn", True)])
def variant(request: pytest.FixtureRequest, recording: Golden, base: Golden) -> tuple[str, Mask2Former]:
    """Both forms of the last layer, each with both ways of sampling (in tiles, and as a whole)."""
    name, gathers = request.param
    states = [base.tensors] if name == "plain" else [base.tensors, recording.tensors]
    state = {
        key.removeprefix("state."): tensor
        for tensors in states
        for key, tensor in tensors.items()
        if key.startswith("state.") and key != "state.criterion.empty_weight"
    }
    model = build_model(architecture(name == "small_ffn")).eval()
    model.load_state_dict(state, strict=True)
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            module.sampling = "gather_sum" if gathers else "grid_sample"
    return name, model


def image_of(base: Golden) -> Tensor:
    return base.tensors["a.normalized"][None]


def test_encoder__interleaved_layers__equal_originals(
    recording: Golden, base: Golden, variant: tuple[str, Mask2Former]
) -> None:
    model = variant[1]
    with torch.no_grad():
        features = model.extract(image_of(base))
        tokens, decoder = features.tokens, model.sem_seg_head.pixel_decoder
        for index in range(5):
            tokens = decoder.encoder.runner(tokens, decoder.positions(features.shapes), features.shapes)(
                index, tokens, range(len(tokens))
            )
            expected = recording.tensors[f"a.encoder.layer{index}.high"]
            torch.testing.assert_close(tokens[:, : expected.shape[1]], expected, **TOLERANCE)
            assert torch.equal(tokens[:, expected.shape[1] :], features.tokens[:, expected.shape[1] :])


def test_forward__every_exit__equals_original(
    recording: Golden, base: Golden, variant: tuple[str, Mask2Former]
) -> None:
    name, model = variant
    with torch.no_grad():
        features = model.extract(image_of(base))
        encoded = model.encode(features, EXITS)
        for depth, tokens in zip(EXITS, encoded, strict=True):
            start = f"a.{name}.exit{depth}."
            torch.testing.assert_close(tokens, recording.tensors[start + "tokens"], **TOLERANCE)
            predictions = model.decode(tokens, features)
            torch.testing.assert_close(
                predictions.pred_logits[-1], recording.tensors[start + "pred_logits"], **TOLERANCE
            )
            torch.testing.assert_close(predictions.pred_masks[-1], recording.tensors[start + "pred_masks"], **TOLERANCE)
        decoder = model.sem_seg_head.pixel_decoder
        fused, memories = decoder.fuse_levels(encoded[-1], features.shapes, features.lateral)
    for level, memory in enumerate(memories):
        expected = recording.tensors[f"a.{name}.exit5.multi_scale_features.{level}"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(memory, expected, **TOLERANCE)
    expected = recording.tensors[f"a.{name}.exit5.mask_features"]
    torch.testing.assert_close(decoder.mask_features(fused), expected, **TOLERANCE)


def test_predict_at__mixed_exits__equals_each_exit(
    recording: Golden, base: Golden, variant: tuple[str, Mask2Former]
) -> None:
    name, model = variant
    depths = (4, 2, 5)
    with torch.no_grad():
        batch = torch.cat([image_of(base)] * len(depths))
        predictions = model.predict_at(model.extract(batch), torch.tensor(depths))
    for row, depth in enumerate(depths):
        start = f"a.{name}.exit{depth}."
        torch.testing.assert_close(
            predictions.pred_logits[row], recording.tensors[start + "pred_logits"][0], **TOLERANCE
        )
        torch.testing.assert_close(predictions.pred_masks[row], recording.tensors[start + "pred_masks"][0], **TOLERANCE)
