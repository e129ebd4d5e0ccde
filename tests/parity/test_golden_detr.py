"""DETR against tensors recorded from the original (random weights, R50 at 1/8 width), alone and in a batch."""

from pathlib import Path

import pytest
import torch
from parity.golden import load_recording
from torch import Tensor

from ecocli.config.architecture import ResNetConfig
from ecocli.config.detr import DetrConfig
from ecocli.model.builders import build_detr
from ecocli.model.detr import Detr
from ecocli.weights.detr import recognise_detr

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}

# Configuration of golden_detr_small as its JSON gives it.
DETR_SMALL = DetrConfig(
    name="golden-detr-small",
    backbone=ResNetConfig(stem_channels=8, res2_channels=32, bottleneck_channels=8, frozen_stages=2),
    hidden_dim=64,
    heads=4,
    decoder_layers=3,
    feedforward_dim=128,
    num_queries=20,
    num_classes=91,
)


@pytest.fixture(scope="module")
def tensors(shared_dir: Path) -> dict[str, Tensor]:
    return load_recording(shared_dir, "golden_detr_small")[0]


@pytest.fixture(scope="module")
def model(tensors: dict[str, Tensor]) -> Detr:
    state = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    recognised = recognise_detr(state)
    assert recognised is not None
    source, renamed, unknown = recognised
    assert (source, unknown) == ("DETR with the original names", ())
    model = build_detr(DETR_SMALL)
    model.load_state_dict(renamed, strict=True)
    return model.eval()


def padded_batch(tensors: dict[str, Tensor], names: str) -> tuple[Tensor, list[tuple[int, int]]]:
    images = [tensors[f"{name}.normalized"] for name in names]
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    batch = torch.zeros(len(images), 3, max(h for h, _ in sizes), max(w for _, w in sizes))
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes


@torch.no_grad()
def test_extract__padded_batch__equals_original(tensors: dict[str, Tensor], model: Detr) -> None:
    batch, sizes = padded_batch(tensors, "ab")
    features = model.extract(batch, sizes)
    for stage in (2, 3, 4, 5):
        expected = tensors[f"batch.backbone.layer{stage - 1}"]
        torch.testing.assert_close(features.maps[f"res{stage}"].contiguous(), expected, **TOLERANCE)
    assert features.padding_mask is not None
    assert torch.equal(features.padding_mask, tensors["batch.feature_mask"].flatten(1).bool())
    torch.testing.assert_close(features.positions, tensors["batch.pos"].flatten(2).transpose(1, 2), **TOLERANCE)
    torch.testing.assert_close(features.tokens, tensors["batch.input_proj"].flatten(2).transpose(1, 2), **TOLERANCE)


@torch.no_grad()
def test_forward__padded_batch__equals_original_at_every_layer_and_exit(
    tensors: dict[str, Tensor], model: Detr
) -> None:
    batch, sizes = padded_batch(tensors, "ab")
    features = model.extract(batch, sizes)
    depths = (1, 2, 3, 4, 5, 6)
    after = model.encode(features, depths)
    for depth, tokens in zip(depths, after, strict=True):
        torch.testing.assert_close(tokens, tensors[f"batch.encoder.layer{depth - 1}"], **TOLERANCE)
    queries = model.transformer.decoder(model.query_embed.weight, after[-1], features.positions, features.padding_mask)
    torch.testing.assert_close(torch.stack(queries), tensors["batch.decoder.hs"], **TOLERANCE)
    predictions = model(batch, depths, image_sizes=sizes)
    assert predictions.pred_logits.shape == (6, 3, 2, 20, 92)
    for index, depth in enumerate(depths):
        for name, found in (("pred_logits", predictions.pred_logits), ("pred_boxes", predictions.pred_boxes)):
            torch.testing.assert_close(found[index, -1], tensors[f"batch.exit{depth}.{name}"], **TOLERANCE)
    for layer in (0, 1):
        for name, found in (("pred_logits", predictions.pred_logits), ("pred_boxes", predictions.pred_boxes)):
            torch.testing.assert_close(found[-1, layer], tensors[f"batch.aux.{layer}.{name}"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", ["a", "b"])
def test_forward__image_alone__equals_original_at_every_exit(
    tensors: dict[str, Tensor], model: Detr, name: str
) -> None:
    image, sizes = padded_batch(tensors, name)
    # Two images of one size in the batch: neither sees the other.
    batch = torch.cat((image, image.flip(-1)))
    predictions = model(batch, (2, 3, 4, 5, 6), all_layers=False, image_sizes=sizes * 2)
    for index, depth in enumerate((2, 3, 4, 5, 6)):
        for key, found in (("pred_logits", predictions.pred_logits), ("pred_boxes", predictions.pred_boxes)):
            torch.testing.assert_close(found[index, 0, :1], tensors[f"{name}.exit{depth}.{key}"], **TOLERANCE)


@torch.no_grad()
def test_predict_at__mixed_depths_in_padded_batch__equals_each_exit(tensors: dict[str, Tensor], model: Detr) -> None:
    batch, sizes = padded_batch(tensors, "ab")
    for depths in ((5, 2), (3, 6), (4, 4)):
        found = model.predict_at(model.extract(batch, sizes), torch.tensor(depths))
        for row, depth in enumerate(depths):
            for key in ("pred_logits", "pred_boxes"):
                expected = tensors[f"batch.exit{depth}.{key}"][row]
                torch.testing.assert_close(getattr(found, key)[row], expected, **TOLERANCE)
