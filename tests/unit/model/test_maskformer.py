import pytest
import torch
from torch import Tensor

from ecocli.config.maskformer import MASKFORMER_ARCHITECTURES
from ecocli.model.builders import build_maskformer
from ecocli.model.maskformer import MaskFormer
from ecocli.model.parts import run_parts
from ecocli.profiling.gflops import count_gflops
from ecocli.weights.export import cut_encoder
from ecocli.weights.maskformer import infer_maskformer

SHAPES = MASKFORMER_ARCHITECTURES["maskformer-shapes"]


@pytest.fixture(scope="module")
def model() -> MaskFormer:
    torch.manual_seed(0)
    return build_maskformer(SHAPES).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_decode__every_exit__equals_a_model_cut_there(model: MaskFormer, images: Tensor) -> None:
    features = model.extract(images)
    tokens = model.encode(features, (2, 4, 6))
    stacked = model.decode(torch.cat(tokens), features, all_layers=True)
    for place, depth in enumerate((2, 4, 6)):
        cut = build_maskformer(SHAPES.model_copy(update={"encoder_layers": depth})).eval()
        cut.load_state_dict(cut_encoder(model.state_dict(), SHAPES.exits, depth))
        own = cut.extract(images)
        expected = cut.decode(cut.encode(own, (depth,))[0], own, all_layers=True)
        rows = slice(2 * place, 2 * place + 2)
        torch.testing.assert_close(stacked.pred_logits[:, rows], expected.pred_logits)
        torch.testing.assert_close(stacked.pred_masks[:, rows], expected.pred_masks)


@torch.no_grad()
def test_predict_at__images_at_their_own_exits__equal_the_fixed_ones_and_the_parts(
    model: MaskFormer, images: Tensor
) -> None:
    features = model.extract(images)
    mixed = model.predict_at(features, torch.tensor([5, 2]))
    for image, depth in enumerate((5, 2)):
        (tokens,) = model.encode(features, (depth,))
        fixed = model.decode(tokens, features)
        torch.testing.assert_close(mixed.pred_masks[image], fixed.pred_masks[-1, image], rtol=1e-5, atol=1e-5)
        parts = run_parts(model.parts(depth), {"images": images})
        torch.testing.assert_close(parts["pred_masks"][-1], fixed.pred_masks[-1])
        torch.testing.assert_close(parts["pred_logits"][-1], fixed.pred_logits[-1])


def test_build_maskformer__r50__published_size_and_the_encoders_closed_form() -> None:
    architecture = MASKFORMER_ARCHITECTURES["maskformer-r50"]
    with torch.device("meta"):
        found = build_maskformer(architecture)
    # Published: 45 M parameters.
    assert sum(parameter.numel() for parameter in found.parameters()) == pytest.approx(45.0e6, rel=0.005)
    costs = count_gflops(architecture, (800, 1088), (480, 640), (2, 6))
    # DETR's layer: 1,310,720 multiply-adds per token, and the two attention products of 256 N^2 each.
    tokens = 25 * 34
    assert costs.encoder(6) == pytest.approx(6 * (1_310_720 * tokens + 512 * tokens**2) / 1e9, rel=0.01)
    assert costs.encoder(2) == pytest.approx(costs.encoder(6) / 3)


def test_infer_maskformer__state_of_a_preset__the_preset() -> None:
    for name in ("maskformer-r50", "maskformer-swin-t", "maskformer-shapes"):
        with torch.device("meta"):
            state = build_maskformer(MASKFORMER_ARCHITECTURES[name]).state_dict()
        found = infer_maskformer(state)
        assert (found.name, found.encoder_layers) == (name, MASKFORMER_ARCHITECTURES[name].encoder_layers)
        assert found.heads == MASKFORMER_ARCHITECTURES[name].heads
