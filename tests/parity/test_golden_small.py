"""A few tensors of the original Mask2Former that lie here, so that a fresh clone checks parity too.

Taken from the recording of ``test_golden_r50`` (random weights, R50 at 1/8 width): the pixel decoder's projections, and
panoptic post-processing of the deepest exit.
"""

from pathlib import Path

import pytest
import torch
from parity.golden import R50_SMALL
from safetensors.torch import load_file
from torch import Tensor

from ecocli.inference.postprocess import Geometry, PanopticRule, panoptic_inference
from ecocli.model.builders import build_model

_STATE = "state."


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("golden_small.safetensors"))


def test_project__recorded_maps__equal_the_originals(recorded: dict[str, Tensor]) -> None:
    model = build_model(R50_SMALL).eval()
    state = {name.removeprefix(_STATE): value for name, value in recorded.items() if name.startswith(_STATE)}
    assert len(state) == 12
    missing = model.load_state_dict(state, strict=False)
    assert missing.unexpected_keys == []
    maps = {f"res{stage}": recorded[f"a.backbone.res{stage}"] for stage in (3, 4, 5)}
    # No projection here reads the finest map.
    maps["res2"] = torch.zeros(1, 32, 32, 40)
    with torch.no_grad():
        tokens = model.sem_seg_head.pixel_decoder.project(maps).tokens
    expected = torch.cat([recorded[f"a.input_proj.{level}"].flatten(2).transpose(1, 2) for level in range(3)], dim=1)
    torch.testing.assert_close(tokens, expected, rtol=0.0, atol=1e-4)


def test_panoptic_inference__recorded_predictions__give_the_originals_map(recorded: dict[str, Tensor]) -> None:
    # As in the recording's notes: the first eight classes are things, low thresholds.
    rule = PanopticRule(tuple(index < 8 for index in range(12)), tuple(range(12)), 0.2, 0.3)
    geometry = Geometry((128, 160), (128, 160), (128, 160))
    found, _ = panoptic_inference(recorded["a.pred_logits"][0], recorded["a.pred_masks"][0], geometry, rule)
    assert torch.equal(torch.as_tensor(found), recorded["a.panoptic_seg"].int())
