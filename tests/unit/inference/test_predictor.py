"""Prediction at all exits and at the gate's exits, against the model called directly and the original's record."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_inference import EXIT_DEPTHS, RULE, splitting_gate, tiny_dataset, tiny_model
from parity.golden import R50_SMALL, Golden

from ecocli.config.dataset import ResizeConfig
from ecocli.data.batching import ImageBatch, make_batch
from ecocli.inference.postprocess import PanopticRule
from ecocli.inference.predictor import predict_exits, predict_gated
from ecocli.model.mask2former import Mask2Former
from ecocli.scoring.batches import LabelledBatch, load_batch

KEEP = ResizeConfig()


@pytest.fixture(scope="module")
def model() -> Mask2Former:
    return tiny_model()


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, model: Mask2Former) -> LabelledBatch:
    dataset = tiny_dataset(tmp_path_factory.mktemp("data"), val=4)
    return load_batch(dataset, range(4), KEEP, model, "cpu")


def test_predict_exits__all_exits__equals_the_models_forward(model: Mask2Former, batch: LabelledBatch) -> None:
    images = batch.images.images
    with torch.no_grad():
        expected = model(images, EXIT_DEPTHS, all_layers=False)
        found = list(predict_exits(model, model.extract(images), batch.images, EXIT_DEPTHS))
    assert [[p.exit_depth for p in exit_] for exit_ in found] == [[depth] * 4 for depth in EXIT_DEPTHS]
    for e, exit_ in enumerate(found):
        for b, prediction in enumerate(exit_):
            torch.testing.assert_close(prediction.pred_masks, expected.pred_masks[e, 0, b], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(prediction.pred_logits, expected.pred_logits[e, 0, b], atol=1e-4, rtol=1e-4)


def test_predict_gated__mixed_choice__gives_each_image_its_own_exit(model: Mask2Former, batch: LabelledBatch) -> None:
    gate, depths = splitting_gate(model, [batch.images], (1, 3))
    gated = predict_gated(model, gate, batch.images)
    assert [p.exit_depth for p in gated] == depths
    assert set(depths) == {1, 3}
    assert [p.image_id for p in gated] == list(batch.images.image_ids)
    with torch.no_grad():
        fixed = list(predict_exits(model, model.extract(batch.images.images), batch.images, (1, 3)))
    distinct = 0
    for b, prediction in enumerate(gated):
        own, other = (fixed[0][b], fixed[1][b]) if depths[b] == 1 else (fixed[1][b], fixed[0][b])
        torch.testing.assert_close(prediction.pred_masks, own.pred_masks, atol=1e-4, rtol=1e-4)
        distinct += not torch.allclose(prediction.pred_masks, other.pred_masks, atol=1e-2)
    assert distinct == 4  # exits that agree would prove nothing


def test_predict_gated__alone_or_among_others__gives_the_same_result(model: Mask2Former, batch: LabelledBatch) -> None:
    gate, _ = splitting_gate(model, [batch.images], (1, 3))
    together = predict_gated(model, gate, batch.images)
    for b in range(4):
        alone = ImageBatch(
            batch.images.images[b : b + 1],
            batch.images.image_sizes[b : b + 1],
            batch.images.original_sizes[b : b + 1],
            batch.images.image_ids[b : b + 1],
        )
        (prediction,) = predict_gated(model, gate, alone)
        assert prediction.exit_depth == together[b].exit_depth
        torch.testing.assert_close(prediction.pred_logits, together[b].pred_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(prediction.pred_masks, together[b].pred_masks, atol=1e-4, rtol=1e-4)


def test_predict_exits__padded_and_resized_image__gives_the_originals_panoptic_map(shared_dir: Path) -> None:
    # Origin: golden_r50_small, image b: 118 x 150, padded to 128 x 160, original size 177 x 225.
    golden = Golden(shared_dir, "golden_r50_small")
    model = golden.model(R50_SMALL)
    image = golden.tensors["b.image"].permute(1, 2, 0).numpy()
    assert (image == image.round()).all()
    batch = make_batch(
        [image.astype(np.uint8)], model.pixel_mean, model.pixel_std, original_sizes=[(177, 225)], image_ids=["b"]
    )
    things = set(golden.notes["resolved"]["thing_classes"])
    rule = PanopticRule(tuple(k in things for k in range(12)), tuple(range(12)), 0.2, 0.3)
    with torch.no_grad():
        (predictions,) = predict_exits(model, model.extract(batch.images), batch, (6,))
    found, segments = predictions[0].panoptic(rule)
    expected = golden.tensors["b.panoptic_seg"].numpy()
    assert expected.any()
    # Masks differ from the record by some 1e-5, so that a handful of pixels on an outline may fall either way.
    assert (found != expected).mean() < 1e-3
    recorded = golden.notes["inference"]["b"]["segments_info"]
    assert [(s.id, s.is_thing, s.class_index) for s in segments] == [
        (e["id"], e["isthing"], e["category_id"]) for e in recorded
    ]


def test_panoptic__tiny_model__predicts_segments_at_all(model: Mask2Former, batch: LabelledBatch) -> None:
    # Guards the other tests: a model that predicts nothing would pass many of them.
    with torch.no_grad():
        exits = list(predict_exits(model, model.extract(batch.images.images), batch.images, EXIT_DEPTHS))
    assert all(len(p.panoptic(RULE)[1]) > 0 for exit_ in exits for p in exit_)
