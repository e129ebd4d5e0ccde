"""The model against tensors recorded from the original Mask2Former (random weights, R50 at 1/8 width)."""

from pathlib import Path

import pytest
import torch
from parity.golden import R50_SMALL, Golden
from torch import Tensor

from ecocli.model.deformable import DeformableAttention
from ecocli.model.mask2former import Mask2Former

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Golden:
    return Golden(shared_dir, "golden_r50_small")


@pytest.fixture(scope="module")
def model(golden: Golden) -> Mask2Former:
    return golden.model(R50_SMALL)


@pytest.fixture(scope="module", params=["grid_sample", "gather_sum"])
def image(request: pytest.FixtureRequest, golden: Golden, model: Mask2Former) -> Tensor:
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            module.sampling = request.param
    return golden.tensors["a.normalized"][None]


def test_extract__recorded_image__equals_original(golden: Golden, model: Mask2Former, image: Tensor) -> None:
    features = model.extract(image)
    for name, level in features.maps.items():
        torch.testing.assert_close(level, golden.tensors[f"a.backbone.{name}"], **TOLERANCE)
    expected = torch.cat([golden.tensors[f"a.input_proj.{i}"].flatten(2).transpose(1, 2) for i in range(3)], dim=1)
    torch.testing.assert_close(features.tokens, expected, **TOLERANCE)
    positions = model.sem_seg_head.pixel_decoder.positions(features.shapes)
    torch.testing.assert_close(positions[None], golden.tensors["a.encoder.pos_plus_level"], **TOLERANCE)


def test_encode__every_depth__equals_original_layers(golden: Golden, model: Mask2Former, image: Tensor) -> None:
    with torch.no_grad():
        depths = (1, 2, 3, 4, 5, 6)
        after = model.encode(model.extract(image), depths)
    for depth, tokens in zip(depths, after, strict=True):
        torch.testing.assert_close(tokens, golden.tensors[f"a.encoder.layer{depth - 1}"], **TOLERANCE)


def test_forward__every_exit__equals_truncated_original(golden: Golden, model: Mask2Former, image: Tensor) -> None:
    # Two copies in the batch: an image's result must not depend on its batch mates.
    with torch.no_grad():
        predictions = model(torch.cat((image, image.flip(-1))), (1, 2, 3, 4, 5, 6), all_layers=False)
    for index, depth in enumerate(range(1, 7)):
        logits, masks = predictions.pred_logits[index, 0, :1], predictions.pred_masks[index, 0, :1]
        torch.testing.assert_close(logits, golden.tensors[f"a.exit{depth}.pred_logits"], **TOLERANCE)
        torch.testing.assert_close(masks, golden.tensors[f"a.exit{depth}.pred_masks"], **TOLERANCE)


def test_forward__full_depth__equals_every_auxiliary_prediction(
    golden: Golden, model: Mask2Former, image: Tensor
) -> None:
    with torch.no_grad():
        predictions = model(image, (6,))
    assert predictions.pred_logits.shape[:2] == (1, 4)
    for step in range(3):
        logits, masks = predictions.pred_logits[0, step], predictions.pred_masks[0, step]
        torch.testing.assert_close(logits, golden.tensors[f"a.aux.{step}.pred_logits"], **TOLERANCE)
        torch.testing.assert_close(masks, golden.tensors[f"a.aux.{step}.pred_masks"], **TOLERANCE)
    torch.testing.assert_close(predictions.pred_logits[0, 3], golden.tensors["a.pred_logits"], **TOLERANCE)
    torch.testing.assert_close(predictions.pred_masks[0, 3], golden.tensors["a.pred_masks"], **TOLERANCE)


def test_fuse__recorded_image__equals_original_mask_features(golden: Golden, model: Mask2Former, image: Tensor) -> None:
    with torch.no_grad():
        features = model.extract(image)
        (tokens,) = model.encode(features, (6,))
        decoder = model.sem_seg_head.pixel_decoder
        fused, memories = decoder.fuse_levels(tokens, features.shapes, features.lateral)
        mask_features = decoder.mask_features(fused)
    torch.testing.assert_close(mask_features, golden.tensors["a.mask_features"], **TOLERANCE)
    for level, memory in enumerate(memories):
        expected = golden.tensors[f"a.multi_scale_features.{level}"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(memory, expected, **TOLERANCE)


def test_forward_per_image__mixed_depths__equals_each_exit(golden: Golden, model: Mask2Former, image: Tensor) -> None:
    with torch.no_grad():
        batch = torch.cat((image, image, image))
        predictions = model.predict_at(model.extract(batch), torch.tensor([5, 2, 6]))
    for row, depth in enumerate((5, 2, 6)):
        expected = golden.tensors[f"a.exit{depth}.pred_logits"][0]
        torch.testing.assert_close(predictions.pred_logits[row], expected, **TOLERANCE)
        expected = golden.tensors[f"a.exit{depth}.pred_masks"][0]
        torch.testing.assert_close(predictions.pred_masks[row], expected, **TOLERANCE)


def test_forward__batch_of_two_sizes__equals_original(golden: Golden, model: Mask2Former) -> None:
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.pixel_mean, model.pixel_std))
    batch = torch.zeros(2, 3, 128, 160)
    for row, name in enumerate("ab"):
        image = (golden.tensors[f"{name}.image"].float() - mean) / std
        batch[row, :, : image.shape[1], : image.shape[2]] = image
    with torch.no_grad():
        predictions = model(batch, (6,), all_layers=False)
    # Image b is padded; the original's own two-thread noise there is larger than on image a.
    torch.testing.assert_close(predictions.pred_logits[0, 0], golden.tensors["batch2.pred_logits"], rtol=0, atol=1e-3)
    torch.testing.assert_close(predictions.pred_masks[0, 0], golden.tensors["batch2.pred_masks"], rtol=0, atol=1e-3)
