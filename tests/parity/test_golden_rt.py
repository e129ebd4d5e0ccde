"""The hybrid encoder, and RT-M2F, against tensors recorded from RT-DETR's code and Mask2Former's."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from parity.golden import R50_SMALL, Golden
from torch import Tensor

from ecocli.config.architecture import HybridEncoderConfig
from ecocli.model.builders import build_model
from ecocli.model.hybrid import HybridEncoder, HybridLayer, RepVggBlock, normed_projection
from ecocli.weights.loading import fit_weights, recognise

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


def flat(level: Tensor) -> Tensor:
    return level.flatten(2).transpose(1, 2)


def encoder_of(tensors: Mapping[str, Tensor]) -> tuple[HybridEncoder, torch.nn.ModuleList]:
    """The recorded encoder, hidden width 32, and its projections, the coarsest first."""
    encoder = HybridEncoder(
        32, 3, heads=4, feedforward_dim=64, expansion=1.0, fusion_depth=3, exits=HybridEncoderConfig().exits
    )
    named = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    width = named["encoder.0.layers.0.linear1.weight"].shape[0]
    assert width == encoder.layers[0].aifi.linear1.out_features
    layer = {
        key.replace("encoder.0.layers.0.", "aifi."): tensor
        for key, tensor in named.items()
        if not key.startswith("input_proj.")
    }
    encoder.layers[0].load_state_dict(layer, strict=True)
    projections = torch.nn.ModuleList(normed_projection(channels, 32) for channels in (96, 48, 24))
    projections.load_state_dict(
        {
            f"{2 - int(key.split('.')[1])}.{('conv', 'norm')[int(key.split('.')[2])]}.{key.split('.')[3]}": tensor
            for key, tensor in named.items()
            if key.startswith("input_proj.")
        },
        strict=True,
    )
    return encoder, projections


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Golden:
    return Golden(shared_dir, "golden_rt_small")


@pytest.mark.parametrize(("image", "table"), [("a", "rows_first"), ("s", "published")])
@pytest.mark.parametrize("folds", [True, False], ids=["folded", "branches"])
def test_hybrid_layer__recorded_input__equals_original_at_every_step(
    golden: Golden, image: str, table: str, folds: bool
) -> None:
    encoder, projections = encoder_of(golden.tensors)
    encoder.eval()
    projections.eval()
    start = f"{image}.{table}."
    layer = encoder.layers[0]
    assert isinstance(layer, HybridLayer)
    seen: dict[str, Tensor] = {}
    for kind, name in (("fpn_blocks", "fpn"), ("pan_blocks", "pan")):
        for index, block in enumerate(getattr(layer, kind)):
            block.register_forward_hook(lambda _module, _inputs, out, key=f"{name}.{index}": seen.__setitem__(key, out))
    layer.aifi.register_forward_hook(lambda _module, _inputs, out: seen.__setitem__("aifi_tokens", out))
    for kind, name in (("lateral_convs", "lateral"), ("downsample_convs", "downsample")):
        for index, convolution in enumerate(getattr(layer, kind)):
            convolution.register_forward_hook(
                lambda _module, _inputs, out, key=f"{name}.{index}": seen.__setitem__(
                    key, torch.nn.functional.silu(out)
                )
            )
    with torch.set_grad_enabled(not folds):
        levels = [
            projection(golden.tensors[f"{image}.{name}"])
            for projection, name in zip(projections, ("res5", "res4", "res3"), strict=True)
        ]
        for index, level in enumerate(reversed(levels)):
            torch.testing.assert_close(level, golden.tensors[f"{image}.published.input_proj.{index}"], **TOLERANCE)
        shapes = tuple((level.shape[2], level.shape[3]) for level in levels)
        tokens = torch.cat([flat(level) for level in levels], dim=1)
        (encoded,) = encoder(tokens, encoder.positions(shapes, None), shapes, (1,))
    assert len(seen) == 9
    if image == "a":
        torch.testing.assert_close(
            encoder.positions(shapes, None)[None], golden.tensors["a.pos.rows_first"], **TOLERANCE
        )
    for name, found in seen.items():
        torch.testing.assert_close(found, golden.tensors[start + name], **TOLERANCE)
    outputs = torch.split(encoded, [height * width for height, width in shapes], dim=1)
    for output, stride in zip(outputs, (32, 16, 8), strict=True):
        torch.testing.assert_close(output, flat(golden.tensors[f"{start}out.stride{stride}"]), **TOLERANCE)


def test_hybrid_layer__training__equals_original_with_batch_statistics(golden: Golden) -> None:
    encoder, projections = encoder_of(golden.tensors)
    levels = [
        projection(golden.tensors[f"a.{name}"])
        for projection, name in zip(projections, ("res5", "res4", "res3"), strict=True)
    ]
    shapes = tuple((level.shape[2], level.shape[3]) for level in levels)
    (encoded,) = encoder(torch.cat([flat(x) for x in levels], dim=1), encoder.positions(shapes, None), shapes, (1,))
    outputs = torch.split(encoded, [height * width for height, width in shapes], dim=1)
    for output, stride in zip(outputs, (32, 16, 8), strict=True):
        expected = flat(golden.tensors[f"a.rows_first.train_mode.out.stride{stride}"])
        torch.testing.assert_close(output, expected, **TOLERANCE)


def test_rep_vgg_block__inference__equals_both_branches() -> None:
    torch.manual_seed(0)
    block = RepVggBlock(16)
    for _ in range(3):
        block(torch.randn(2, 16, 9, 7))
    block.eval()
    x = torch.randn(2, 16, 9, 7)
    branches = block(x)
    with torch.no_grad():
        torch.testing.assert_close(block(x), branches, rtol=0, atol=1e-5)


@pytest.mark.parametrize("folds", [True, False], ids=["folded", "branches"])
def test_forward__rt_m2f__equals_original(shared_dir: Path, folds: bool) -> None:
    base, recording = Golden(shared_dir, "golden_r50_small"), Golden(shared_dir, "golden_rt_m2f_small")
    encoder = HybridEncoderConfig(feedforward_dim=128)
    pixel = R50_SMALL.pixel_decoder.model_copy(update={"encoder": encoder})
    model = build_model(R50_SMALL.model_copy(update={"pixel_decoder": pixel})).eval()
    replaced = ("state.sem_seg_head.pixel_decoder.input_proj.", "state.sem_seg_head.pixel_decoder.transformer.")
    shared = {
        key.removeprefix("state."): tensor
        for key, tensor in base.tensors.items()
        if key.startswith("state.") and not key.startswith(replaced) and key != "state.criterion.empty_weight"
    }
    # The encoder's weights come as a checkpoint of RT-DETR has them.
    published = {
        key.removeprefix("state.hybrid_"): tensor
        for key, tensor in recording.tensors.items()
        if key.startswith("state.hybrid_encoder.")
    }
    report = fit_weights(model, recognise(published, "rt.pth"), "rt.pth")
    assert len(report.loaded) == len(published)
    assert set(report.missing) == {name for name in shared if not name.endswith("num_batches_tracked")}
    found = model.load_state_dict(shared, strict=False)
    assert not found.unexpected_keys
    assert set(found.missing_keys) == {name for name in report.loaded if not name.endswith("num_batches_tracked")}
    with torch.set_grad_enabled(not folds):
        features = model.extract(base.tensors["a.normalized"][None])
        (tokens,) = model.encode(features, (1,))
        decoder = model.sem_seg_head.pixel_decoder
        fused, memories = decoder.fuse_levels(tokens, features.shapes, features.lateral)
        predictions = model.decode(tokens, features, all_layers=True)
        mask_features = decoder.mask_features(fused)
    start = "a.rows_first."
    for level, memory in enumerate(memories):
        torch.testing.assert_close(memory, flat(recording.tensors[f"{start}multi_scale_features.{level}"]), **TOLERANCE)
    torch.testing.assert_close(mask_features, recording.tensors[start + "mask_features"], **TOLERANCE)
    torch.testing.assert_close(predictions.pred_logits[-1], recording.tensors[start + "pred_logits"], **TOLERANCE)
    torch.testing.assert_close(predictions.pred_masks[-1], recording.tensors[start + "pred_masks"], **TOLERANCE)
    for step in range(3):
        torch.testing.assert_close(
            predictions.pred_logits[step], recording.tensors[f"{start}aux.{step}.pred_logits"], **TOLERANCE
        )
