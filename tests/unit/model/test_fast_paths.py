"""Paths taken where no gradient is wanted, against the plain ones that training takes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ecocli.config.architecture import ARCHITECTURES
from ecocli.model.builders import build_model
from ecocli.model.compiled import compile_backbone
from ecocli.model.layers import FrozenBatchNorm2d, NormedConv2d, SyncBatchNorm2d
from ecocli.model.swin import SwinTransformer
from ecocli.model.windows import window_order


def swin(window_size: int) -> SwinTransformer:
    torch.manual_seed(3)
    model = SwinTransformer(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=window_size)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("tile_tokens", [1, 60, 1024])
@pytest.mark.parametrize("size", [(64, 64), (52, 90), (4, 132), (1, 1)])
def test_swin__without_gradients__equals_the_training_path(
    size: tuple[int, int], tile_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecocli.model.swin._TILE_TOKENS", tile_tokens)
    model, images = swin(window_size=4), torch.randn(2, 3, *size)
    expected = model(images)
    with torch.no_grad():
        found = model(images)
    for name, level in expected.items():
        torch.testing.assert_close(found[name], level, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_window_order__three_by_two_shifted__hand_worked() -> None:
    # Cells 0 1 / 2 3 / 4 5 in windows of 2, padded to 4 x 2 and shifted up by one and left by one: rows 1, 2, 3
    # (padding) and 0, columns 1 and 0. So the windows hold 3 2 5 4 and padding padding 1 0.
    order = window_order(3, 2, 2, 1, torch.device("cpu"))
    assert order.cells[:4].tolist() == [3, 2, 5, 4]
    assert order.padding.tolist() == [4, 5]
    assert order.cells[6:].tolist() == [1, 0]
    assert order.cells[order.places].tolist() == [0, 1, 2, 3, 4, 5]


def frozen() -> nn.Module:
    return FrozenBatchNorm2d(6)


def batch_norm() -> nn.Module:
    return SyncBatchNorm2d(6).eval()


@pytest.mark.parametrize("make_norm", [frozen, batch_norm])
@pytest.mark.parametrize("side", [2, 9])
def test_normed_conv__without_gradients__folds_the_norm_without_changing_the_result(
    make_norm: Callable[[], nn.Module], side: int
) -> None:
    # 4 x 3 x 3 weights per output channel: the map of 2 x 2 is too small for folding to pay, that of 9 x 9 is not.
    torch.manual_seed(1)
    convolution = NormedConv2d(4, 6, 3, make_norm())
    for name, tensor in convolution.norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(6) + (0.5 if name == "running_var" else -0.5))
    images = torch.randn(2, 4, side, side)
    expected = convolution(images)
    with torch.no_grad():
        assert convolution._folds(images) == (side == 9)
        torch.testing.assert_close(convolution(images), expected.detach(), rtol=1e-5, atol=1e-5)


def test_normed_conv__training_statistics__are_not_folded() -> None:
    convolution = NormedConv2d(1, 6, 1, nn.BatchNorm2d(6))
    with torch.no_grad():
        assert not convolution._folds(torch.randn(1, 1, 9, 9))
        convolution.eval()
        assert convolution._folds(torch.randn(1, 1, 9, 9))


def test_decode__final_prediction_alone__equals_the_last_of_all() -> None:
    # The masks of the layers before are computed on resized features there; only rounding may differ.
    torch.manual_seed(2)
    model = build_model(ARCHITECTURES["m2f-shapes"]).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        every, last = model(images, (2, 5)), model(images, (2, 5), all_layers=False)
    torch.testing.assert_close(last.pred_logits[:, 0], every.pred_logits[:, -1], rtol=0, atol=1e-4)
    torch.testing.assert_close(last.pred_masks[:, 0], every.pred_masks[:, -1], rtol=0, atol=1e-4)


def test_forward__bfloat16_autocast__stays_near_float32() -> None:
    torch.manual_seed(2)
    model = build_model(ARCHITECTURES["m2f-shapes"]).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = model.extract(images)
        (expected,) = model.encode(features, (3,))
        with torch.autocast("cpu", torch.bfloat16):
            (found,) = model.encode(features, (3,))
    # Tokens are normalised to unit variance; bfloat16 has three digits.
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.02


def test_compile_backbone__no_compiler__says_so_once_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_function: object) -> Callable[[Tensor], Tensor]:
        raise RuntimeError("No working C++ compiler found\nlong trace")

    monkeypatch.setattr(torch, "compile", refuse)
    said: list[str] = []
    model = build_model(ARCHITECTURES["m2f-shapes"])
    assert compile_backbone(model, said.append) is False
    assert said == [
        "torch.compile does not work on this machine, so the network runs uncompiled: No working C++ compiler found"
    ]


def test_compile_backbone__compiler__compiles_the_backbone_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_options: compiled.append(module))
    model = build_model(ARCHITECTURES["m2f-shapes"])
    assert compile_backbone(model, pytest.fail) is True
    assert compiled == [model.backbone]
