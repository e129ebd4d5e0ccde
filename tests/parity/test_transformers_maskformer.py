"""Our MaskFormer against transformers' (Swin, random weights, small sizes): forward, losses, matching and folders."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.peer import randomise

from ecocli.losses.mask_criterion import MaskCriterion
from ecocli.losses.targets import pack_targets
from ecocli.model.builders import build_maskformer
from ecocli.model.maskformer import MaskFormer
from ecocli.weights.files import load_state
from ecocli.weights.loading import load_initial_weights, recognise
from ecocli.weights.maskformer import maskformer_from_folder

# The last digits of sums hang on the processor; a mask logit above 1 is allowed its share.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
K, Q, LAYERS = 5, 7, 3
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

    config = MaskFormerConfig(
        fpn_feature_size=32,
        mask_feature_size=24,
        backbone_config=SwinConfig(
            embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4, image_size=64,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        decoder_config=DetrConfig(
            d_model=32, decoder_layers=LAYERS, decoder_attention_heads=4, decoder_ffn_dim=48, num_queries=Q
        ),
        id2label={index: f"class {index}" for index in range(K)},
    )  # fmt: skip
    peer = randomise(MaskFormerForInstanceSegmentation(config).eval())
    folder = tmp_path_factory.mktemp("maskformer")
    peer.save_pretrained(folder)
    return peer, folder


def imported(folder: Path) -> MaskFormer:
    config, labels = maskformer_from_folder(folder, recognise(load_state(folder), str(folder)).tensors)
    assert labels == tuple(f"class {index}" for index in range(K))
    assert (config.num_queries, config.heads, config.encoder_layers, config.decoder_layers) == (Q, 4, 0, LAYERS)
    model = build_maskformer(config)
    report = load_initial_weights(model, folder)
    assert (report.missing, report.mismatched, report.source) == ((), (), "Hugging Face MaskFormer")
    return model.eval()


@torch.no_grad()
def test_decode__every_decoder_depth__equals_cut_peer(pair: tuple[Any, Path]) -> None:
    peer, folder = pair
    model, images = imported(folder), torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    assert model.exits.depths == (1,)
    features = model.extract(images)
    (tokens,) = model.encode(features, (1,))
    ours = model.decode(tokens, features, all_layers=True)
    for depth in range(1, LAYERS + 1):
        cut = copy.deepcopy(peer)
        cut.model.transformer_module.decoder.layers = cut.model.transformer_module.decoder.layers[:depth]
        theirs = cut(images)
        torch.testing.assert_close(ours.pred_logits[depth - 1], theirs.class_queries_logits, **TOLERANCE)
        torch.testing.assert_close(ours.pred_masks[depth - 1], theirs.masks_queries_logits, **TOLERANCE)


def test_mask_criterion__random_batch__losses_matches_and_gradients_of_the_peer(pair: tuple[Any, Path]) -> None:
    peer, _ = pair
    generator = torch.Generator().manual_seed(2)
    labels = [torch.randint(0, K, (count,), generator=generator) for count in (3, 0, 4)]
    masks = [torch.rand(len(own), 40, 56, generator=generator) > 0.6 for own in labels]
    logits = torch.randn(3, Q, K + 1, generator=generator, requires_grad=True)
    found = torch.randn(3, Q, 10, 14, generator=generator, requires_grad=True)
    targets = pack_targets(labels, masks, (40, 56))
    out = MaskCriterion(K)(logits[None], found[None], targets, torch.ones(1))
    losses = peer.criterion(found, logits, [own.float() for own in masks], labels)
    for name, theirs in (("class", "cross_entropy"), ("focal", "mask"), ("dice", "dice")):
        torch.testing.assert_close(out.terms[name][0], losses[f"loss_{theirs}"].detach(), **TOLERANCE)
    for image, (rows, columns) in enumerate(
        peer.matcher(found.detach(), logits.detach(), [own.float() for own in masks], labels)
    ):
        assert out.queries[0, image, columns].tolist() == rows.tolist()
    weights = {"loss_cross_entropy": 1.0, "loss_mask": 20.0, "loss_dice": 1.0}
    expected = torch.autograd.grad(sum(weights[name] * value for name, value in losses.items()), (logits, found))
    for own, theirs in zip(torch.autograd.grad(out.total, (logits, found)), expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-6)


def test_mask_criterion__no_objects__reaches_the_masks_with_zeros() -> None:
    masks = torch.randn(1, 1, Q, 4, 4, requires_grad=True)
    none = pack_targets([torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, 16, 16, dtype=torch.bool)], (16, 16))
    out = MaskCriterion(K)(torch.randn(1, 1, Q, K + 1), masks, none, torch.ones(1))
    (gradient,) = torch.autograd.grad(out.total, masks)
    assert gradient.abs().max() == 0.0
    assert out.terms["focal"].tolist() == out.terms["dice"].tolist() == [0.0]
