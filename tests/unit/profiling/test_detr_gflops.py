"""DETR's GFLOPs against figures counted on the original (detectron2's counter, 800 x 1333), and its parts."""

import pytest
import torch

from ecocli.config.detr import DETR_ARCHITECTURES
from ecocli.model.builders import build_detr
from ecocli.model.parts import run_parts
from ecocli.profiling.gflops import count_gflops

SIZE = (800, 1333)


def test_count_gflops__detr_r50__published_figures() -> None:
    costs = count_gflops(DETR_ARCHITECTURES["detr-r50"], SIZE, SIZE, (2, 3, 4, 5, 6))
    assert costs.encoder(6) == pytest.approx(9.97, abs=0.005)
    assert costs.total(6) == pytest.approx(99.8, abs=0.06)
    assert costs.backbone == pytest.approx(87.3, abs=0.05)
    # What exits can save of the whole.
    assert 1 - costs.total(2) / costs.total(6) < 0.08


def test_count_gflops__query_key_products_too__closed_form() -> None:
    costs = count_gflops(DETR_ARCHITECTURES["detr-r50"], SIZE, SIZE, (6,), convention="all")
    # Per layer 1,310,720 N + 512 N^2 multiply-adds on a 25 x 42 map, and two norms of 5 N C.
    N = 25 * 42
    assert costs.encoder(6) == pytest.approx(6 * (1_310_720 * N + 512 * N**2 + 2 * 5 * N * 256) / 1e9, rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("depth", [2, 6])
def test_parts__in_order__equal_the_model(depth: int) -> None:
    torch.manual_seed(0)
    model = build_detr(DETR_ARCHITECTURES["detr-shapes"]).eval()
    images = torch.randn(2, 3, 70, 90)
    expected = model(images, (depth,), all_layers=False, image_sizes=[(70, 90)] * 2)
    parts = model.parts(depth)
    found = run_parts(parts, {"images": images})
    torch.testing.assert_close(found["pred_logits"], expected.pred_logits[0])
    torch.testing.assert_close(found["pred_boxes"], expected.pred_boxes[0])
