"""The model's interface: shapes, exits, batches, odd sizes."""

import pytest
import torch
from torch import nn

from ecocli.config.architecture import (
    ArchitectureConfig,
    DeformableEncoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
    TransformerDecoderConfig,
)
from ecocli.model.builders import build_model
from ecocli.model.layers import NormedConv2d, make_norm, sine_positions, synchronise_norms
from ecocli.model.mask2former import Mask2Former
from ecocli.model.parts import run_parts

TINY = ArchitectureConfig(
    name="tiny",
    backbone=ResNetConfig(blocks=(1, 1, 1, 1), stem_channels=8, res2_channels=8, bottleneck_channels=4, norm="gn"),
    pixel_decoder=PixelDecoderConfig(
        hidden_dim=32, mask_dim=16, encoder=DeformableEncoderConfig(layers=3, heads=4, points=2, feedforward_dim=32)
    ),
    transformer_decoder=TransformerDecoderConfig(layers=2, heads=4, feedforward_dim=32, num_queries=5),
    num_classes=3,
)


@pytest.fixture(scope="module")
def model() -> Mask2Former:
    torch.manual_seed(0)
    built = build_model(TINY).eval()
    # Fresh deformable attention looks the same way everywhere; give every parameter a voice.
    for parameter in built.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return built


def test_forward__two_exits__has_the_documented_axes(model: Mask2Former) -> None:
    predictions = model(torch.randn(2, 3, 64, 96), (1, 3))
    assert predictions.pred_logits.shape == (2, 3, 2, 5, 4)
    assert predictions.pred_masks.shape == (2, 3, 2, 5, 16, 24)
    assert (model.num_classes, model.num_queries, model.exits.layers) == (3, 5, 3)


def test_forward__exits_together__equal_exits_alone(model: Mask2Former) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        together = model(images, (1, 2, 3))
        for index, depth in enumerate((1, 2, 3)):
            alone = model(images, (depth,))
            torch.testing.assert_close(together.pred_logits[index], alone.pred_logits[0], rtol=0, atol=1e-4)
            torch.testing.assert_close(together.pred_masks[index], alone.pred_masks[0], rtol=0, atol=1e-4)


def test_predict_at__mixed_depths__equals_fixed_exits(model: Mask2Former) -> None:
    images, depths = torch.randn(3, 3, 64, 64), [2, 3, 1]
    with torch.no_grad():
        found = model.predict_at(model.extract(images), torch.tensor(depths))
        for row, depth in enumerate(depths):
            alone = model(images[row : row + 1], (depth,), all_layers=False)
            torch.testing.assert_close(found.pred_logits[row], alone.pred_logits[0, 0, 0], rtol=0, atol=1e-4)
            torch.testing.assert_close(found.pred_masks[row], alone.pred_masks[0, 0, 0], rtol=0, atol=1e-4)


def test_forward__exit_depths_differ__predictions_differ(model: Mask2Former) -> None:
    with torch.no_grad():
        predictions = model(torch.randn(2, 3, 64, 64), (1, 3), all_layers=False)
    assert (predictions.pred_masks[0] - predictions.pred_masks[1]).abs().max() > 1e-2


def test_forward__training__every_parameter_gets_a_gradient(model: Mask2Former) -> None:
    predictions = model(torch.randn(2, 3, 64, 64), (1, 3))
    (predictions.pred_logits.square().mean() + predictions.pred_masks.square().mean()).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad()
    assert missing == []


@pytest.mark.parametrize("size", [(32, 32), (32, 160), (96, 32)])
def test_forward__smallest_and_narrow_inputs__finite(model: Mask2Former, size: tuple[int, int]) -> None:
    with torch.no_grad():
        predictions = model(torch.randn(2, 3, *size), (2,))
    assert predictions.pred_masks.isfinite().all()
    assert predictions.pred_masks.shape[-2:] == (size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("all_layers", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_parts__in_order__equal_forward(model: Mask2Former, depth: int, all_layers: bool) -> None:
    images = torch.randn(2, 3, 64, 96)
    parts = model.parts(depth, all_layers)
    with torch.no_grad():
        expected = model(images, (depth,), all_layers)
        found = run_parts(parts, {"images": images})
    torch.testing.assert_close(found["pred_logits"], expected.pred_logits[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found["pred_masks"], expected.pred_masks[0], rtol=0, atol=1e-5)


def test_sine_positions__one_row__hand_worked() -> None:
    # One row of two columns, 4 channels: row angle 1 / (1 + 1e-6) * 2 pi; column angles pi and 2 pi; frequency 1 for
    # the only sine/cosine pair of each half.
    found = sine_positions(1, 2, 4, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 0.0, -1.0], [0.0, 1.0, 0.0, 1.0]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "trained", "stored"), [("frozen_bn", 0, 4), ("bn", 2, 5), ("sync_bn", 2, 5), ("gn", 2, 2)]
)
def test_make_norm__each_kind__has_the_original_state(name: str, trained: int, stored: int) -> None:
    norm = make_norm(name, 64)  # type: ignore[arg-type]
    assert (len(list(norm.parameters())), len(norm.state_dict())) == (trained, stored)


def test_synchronise_norms__one_process__same_names_parameters_and_arithmetic() -> None:
    # Peer: torch's plain batch norm, in training mode, which is what one process (and every CPU) computes.
    torch.manual_seed(0)
    trunk = nn.Sequential(NormedConv2d(3, 4, 3, make_norm("sync_bn", 4)), NormedConv2d(4, 4, 3, make_norm("bn", 4)))
    peer = nn.Sequential(NormedConv2d(3, 4, 3, make_norm("bn", 4)), NormedConv2d(4, 4, 3, make_norm("bn", 4)))
    peer.load_state_dict(trunk.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(trunk(images), peer(images), rtol=0, atol=0)
    before, names = [id(parameter) for parameter in trunk.parameters()], list(trunk.state_dict())
    synchronise_norms(trunk)
    assert [type(layer.norm) for layer in trunk] == [nn.SyncBatchNorm, nn.BatchNorm2d]
    assert [id(parameter) for parameter in trunk.parameters()] == before
    assert list(trunk.state_dict()) == names
    torch.testing.assert_close(trunk.eval()(images), peer.eval()(images), rtol=0, atol=0)
