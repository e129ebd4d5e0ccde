"""The Swin model against tensors recorded from the original Mask2Former, and the published sizes' state dicts."""

import json
from pathlib import Path

import pytest
import torch
from parity.golden import Golden

from ecocli.config.architecture import (
    ARCHITECTURES,
    ArchitectureConfig,
    DeformableEncoderConfig,
    PixelDecoderConfig,
    ResNetConfig,
    SwinConfig,
    TransformerDecoderConfig,
)
from ecocli.inference.postprocess import (
    Geometry,
    PanopticRule,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from ecocli.model.builders import build_model

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}
SWIN_SMALL = ArchitectureConfig(
    name="swin-small",
    backbone=SwinConfig(embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
    pixel_decoder=PixelDecoderConfig(hidden_dim=64, mask_dim=64, encoder=DeformableEncoderConfig(layers=4)),
    transformer_decoder=TransformerDecoderConfig(layers=2, feedforward_dim=128, num_queries=16),
    num_classes=12,
)
COCO, CITYSCAPES = 133, 19
PUBLISHED = {
    "coco_r50": ARCHITECTURES["m2f-r50"],
    "coco_swin_t": ARCHITECTURES["m2f-swin-t"],
    "coco_swin_s": ARCHITECTURES["m2f-swin-s"],
    "coco_swin_b_384": ARCHITECTURES["m2f-swin-b-384"],
    "cityscapes_r50": ARCHITECTURES["m2f-r50"].model_copy(
        update={"num_classes": CITYSCAPES, "backbone": ResNetConfig(norm="sync_bn")}
    ),
    "cityscapes_swin_t": ARCHITECTURES["m2f-swin-t"].model_copy(update={"num_classes": CITYSCAPES}),
}


def test_forward__recorded_swin__every_exit_and_layer_agree(shared_dir: Path) -> None:
    golden = Golden(shared_dir, "golden_swin_small_cfg")
    model = golden.model(SWIN_SMALL)
    image = golden.tensors["a.normalized"][None]
    with torch.no_grad():
        # Two copies in the batch: an image's result must not depend on its batch mates.
        predictions = model(torch.cat((image, image.flip(-1))), (1, 2, 3, 4))
    for exit_index in range(4):
        expected = golden.tensors[f"a.exit{exit_index + 1}.pred_logits"]
        torch.testing.assert_close(predictions.pred_logits[exit_index, -1, :1], expected, **TOLERANCE)
        expected = golden.tensors[f"a.exit{exit_index + 1}.pred_masks"]
        torch.testing.assert_close(predictions.pred_masks[exit_index, -1, :1], expected, **TOLERANCE)
    for step in range(2):
        expected = golden.tensors[f"a.aux.{step}.pred_masks"]
        torch.testing.assert_close(predictions.pred_masks[3, step, :1], expected, **TOLERANCE)


def test_inference__recorded_swin__panoptic_semantic_and_instances_agree(shared_dir: Path) -> None:
    golden = Golden(shared_dir, "golden_swin_small_cfg")
    tensors = golden.tensors
    model = golden.model(SWIN_SMALL)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.pixel_mean, model.pixel_std))
    images = torch.zeros(2, 3, 128, 160)
    for row, name in enumerate("ab"):
        image = (tensors[f"{name}.image"] - mean) / std
        images[row, :, : image.shape[1], : image.shape[2]] = image
    with torch.no_grad():
        predictions = model(images, (4,), all_layers=False)
    torch.testing.assert_close(predictions.pred_logits[0, 0], tensors["batch2.pred_logits"], rtol=0, atol=1e-3)
    # The recorded configuration: the first eight classes are things; low thresholds, ten (query, class) pairs.
    is_thing = tuple(index < 8 for index in range(12))
    rule = PanopticRule(is_thing, tuple(range(12)), object_threshold=0.2, overlap_threshold=0.3)
    sizes = {"a": Geometry((128, 160), (128, 160), (128, 160)), "b": Geometry((128, 160), (118, 150), (177, 225))}
    for row, (name, geometry) in enumerate(sizes.items()):
        logits, masks = predictions.pred_logits[0, 0, row], predictions.pred_masks[0, 0, row]
        panoptic_map, segments = panoptic_inference(logits, masks, geometry, rule)
        assert (panoptic_map == tensors[f"{name}.panoptic_seg"].numpy()).all()
        assert [{"id": s.id, "isthing": s.is_thing, "category_id": s.category_id} for s in segments] == golden.notes[
            "inference"
        ][name]["segments_info"]
        torch.testing.assert_close(
            semantic_inference(logits, masks, geometry), tensors[f"{name}.sem_seg"], rtol=0, atol=1e-3
        )
        found = instance_inference(logits, masks, geometry, is_thing, max_instances=10)
        # The original leaves instances unsorted.
        order = tensors[f"{name}.instances.scores"].argsort(descending=True)
        torch.testing.assert_close(found.score, tensors[f"{name}.instances.scores"][order], rtol=0, atol=1e-4)
        assert found.class_index.tolist() == tensors[f"{name}.instances.classes"][order].tolist()
        differing = found.masks[found.mask_index] != tensors[f"{name}.instances.masks"][order].bool()
        # A pixel whose logit is within the noise of 0 may fall on either side.
        assert differing.float().mean().item() < 1e-4


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_build_model__published_preset__has_exactly_the_recorded_entries(name: str, shared_dir: Path) -> None:
    # Origin: statedict_NAME.json and param_counts.json, from the original code. The criterion's constant is not ours.
    recorded = json.loads((shared_dir / "golden" / f"statedict_{name}.json").read_text())
    counts = json.loads((shared_dir / "golden" / "param_counts.json").read_text())[name]
    expected = {
        entry["key"]: (tuple(entry["shape"]), entry["dtype"], entry["kind"])
        for entry in recorded["entries"]
        if entry["key"] != "criterion.empty_weight"
    }
    with torch.device("meta"):
        model = build_model(PUBLISHED[name])
    parameters = dict(model.named_parameters())
    state = model.state_dict()
    found = {
        key: (
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            "parameter" if key in parameters else "buffer",
        )
        for key, tensor in state.items()
    }
    assert found == expected
    assert len(state) + 1 == counts["n_keys"]
    for part, key in (
        (model, "total"),
        (model.backbone, "backbone"),
        (model.sem_seg_head, "sem_seg_head"),
        (model.sem_seg_head.pixel_decoder, "pixel_decoder"),
        (model.sem_seg_head.pixel_decoder.encoder, "pixel_decoder.transformer.encoder"),
        (model.sem_seg_head.predictor, "predictor"),
    ):
        assert sum(p.numel() for p in part.parameters()) == counts[key], key


@pytest.mark.parametrize(
    "name,queries,window", [("m2f-swin-b", 100, 7), ("m2f-swin-l", 200, 7), ("m2f-swin-l-384", 200, 12)]
)
def test_build_model__other_swin_preset__published_sizes(name: str, queries: int, window: int) -> None:
    # Origin: Swin paper, table 7 (B: C = 128, L: C = 192); Mask2Former, Swin-L with 200 queries.
    with torch.device("meta"):
        model = build_model(ARCHITECTURES[name])
    state = model.state_dict()
    width = 192 if "-l" in name.removeprefix("m2f") else 128
    assert state["sem_seg_head.predictor.query_feat.weight"].shape == (queries, 256)
    assert state["backbone.layers.3.blocks.1.attn.relative_position_bias_table"].shape == (
        (2 * window - 1) ** 2,
        width // 4,
    )
    assert state["backbone.norm3.weight"].shape == (8 * width,)


@pytest.mark.parametrize("layers", [1, 3, 9])
def test_build_model__fixed_depth_parent__has_that_many_encoder_layers(layers: int) -> None:
    config = ARCHITECTURES["m2f-swin-t"].model_copy(
        update={"pixel_decoder": PixelDecoderConfig(encoder=DeformableEncoderConfig(layers=layers))}
    )
    with torch.device("meta"):
        model = build_model(config)
    assert model.exits.layers == layers
    # One encoder layer has 732,192 parameters (param_counts.json).
    total = sum(p.numel() for p in model.parameters())
    assert total == 47_435_264 + (layers - 6) * 732_192
