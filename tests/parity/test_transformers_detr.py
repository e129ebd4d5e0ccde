"""Our DETR and its weight files against transformers' (random weights, small sizes)."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.peer import randomise
from safetensors.torch import load_file
from torch import Tensor

from ecocli.config.dataset import ResizeConfig
from ecocli.losses.boxes import pack_boxes
from ecocli.losses.set_criterion import SetCriterion
from ecocli.model.builders import build_detr
from ecocli.model.detr import Detr
from ecocli.weights.detr import detr_from_folder, to_original_detr, write_detr_folder
from ecocli.weights.files import load_state
from ecocli.weights.loading import load_initial_weights, recognise

# The last digits of sums hang on the processor; a mask logit above 1 is allowed its share.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
LABELS = {index: f"thing {index}" for index in range(7)}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def small_peer() -> Any:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    config = DetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[1, 2, 1, 1], out_features=["stage4"]
        ),
        d_model=32,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=9,
        id2label=LABELS,
        auxiliary_loss=False,
    )
    return randomise(DetrForObjectDetection(config).eval())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("detr")
    peer = small_peer()
    peer.save_pretrained(folder)
    return peer, folder


def imported(folder: Path) -> Detr:
    config, labels = detr_from_folder(folder, recognise(load_state(folder), str(folder)).tensors)
    assert labels == tuple(LABELS.values())
    assert (config.num_queries, config.heads, config.encoder_layers, config.decoder_layers) == (9, 4, 3, 2)
    model = build_detr(config)
    report = load_initial_weights(model, folder)
    assert (report.missing, report.mismatched, report.source) == ((), (), "Hugging Face DETR")
    return model.eval()


def padded_batch() -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Two images of different sizes, the mask of their own pixels, and their sizes."""
    generator = torch.Generator().manual_seed(5)
    sizes = [(101, 128), (128, 87)]
    batch, own = torch.zeros(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.int64)
    for row, (height, width) in enumerate(sizes):
        batch[row, :, :height, :width] = torch.randn(3, height, width, generator=generator)
        own[row, :height, :width] = 1
    return batch, own, sizes


@torch.no_grad()
def test_forward__every_exit_in_padded_batch__equals_cut_peer(pair: tuple[Any, Path]) -> None:
    peer, folder = pair
    model = imported(folder)
    batch, own, sizes = padded_batch()
    found = model(batch, (1, 2, 3), all_layers=False, image_sizes=sizes)
    for index in range(3):
        cut = copy.deepcopy(peer)
        cut.model.encoder.layers = cut.model.encoder.layers[: index + 1]
        expected = cut(pixel_values=batch, pixel_mask=own)
        torch.testing.assert_close(found.pred_logits[index, 0], expected.logits, **TOLERANCE)
        torch.testing.assert_close(found.pred_boxes[index, 0], expected.pred_boxes, **TOLERANCE)


@torch.no_grad()
def test_set_criterion__last_layer__equals_peer(pair: tuple[Any, Path]) -> None:
    peer, folder = pair
    model = imported(folder)
    batch, own, sizes = padded_batch()
    labels = [torch.tensor([1, 4, 4]), torch.tensor([0])]
    generator = torch.Generator().manual_seed(1)
    boxes = [0.2 + 0.3 * torch.rand(len(some), 4, generator=generator) for some in labels]
    targets = [{"class_labels": c, "boxes": b} for c, b in zip(labels, boxes, strict=True)]
    expected = peer(pixel_values=batch, pixel_mask=own, labels=targets)
    found = model(batch, (3,), all_layers=False, image_sizes=sizes)
    losses = SetCriterion(7)(found.pred_logits[0], found.pred_boxes[0], pack_boxes(labels, boxes), torch.ones(1))
    torch.testing.assert_close(losses.total, expected.loss, **TOLERANCE)
    for name, key in (("class", "loss_ce"), ("box", "loss_bbox"), ("giou", "loss_giou")):
        torch.testing.assert_close(losses.terms[name][0], expected.loss_dict[key], **TOLERANCE)


def test_write_detr_folder__cut_at_every_exit__peer_loads_it_and_predicts_the_same(
    pair: tuple[Any, Path], tmp_path: Path
) -> None:
    from transformers import DetrForObjectDetection

    model = imported(pair[1])
    config = detr_from_folder(pair[1], recognise(load_state(pair[1]), "peer").tensors)[0]
    batch, own, sizes = padded_batch()
    for depth in (1, 2, 3):
        kept = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if not any(name.startswith(f"transformer.encoder.layers.{layer}.") for layer in range(depth, 3))
        }
        folder = tmp_path / str(depth)
        folder.mkdir()
        for name, content in write_detr_folder(config, kept, tuple(LABELS.values()), depth, ResizeConfig()).items():
            (folder / name).write_bytes(content)
        peer, notes = DetrForObjectDetection.from_pretrained(folder, output_loading_info=True)
        assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert peer.config.id2label == LABELS
        with torch.no_grad():
            expected = peer.eval()(pixel_values=batch, pixel_mask=own)
            found = model(batch, (depth,), all_layers=False, image_sizes=sizes)
        torch.testing.assert_close(found.pred_logits[0, 0], expected.logits, **TOLERANCE)
        torch.testing.assert_close(found.pred_boxes[0, 0], expected.pred_boxes, **TOLERANCE)


def test_recognise__old_new_and_timm_names__same_tensors(pair: tuple[Any, Path]) -> None:
    # transformers 5 writes the names of before version 5, and has others in memory.
    old, new = load_file(pair[1] / "model.safetensors"), pair[0].state_dict()
    assert "model.encoder.layers.0.fc1.weight" in old
    assert "model.encoder.layers.0.mlp.fc1.weight" in new
    ours = recognise(old, "old names").tensors
    # The published folders' backbone is timm's, whose ResNet has torchvision's names.
    timm = {name: tensor for name, tensor in old.items() if "backbone" not in name}
    for name, tensor in to_original_detr(ours).items():
        if name.startswith("backbone.0.body."):
            timm["model.backbone.conv_encoder.model." + name.removeprefix("backbone.0.body.")] = tensor
    for state in (new, timm):
        found = recognise(state, "other names").tensors
        assert found.keys() == ours.keys()
        assert all(torch.equal(found[name], ours[name]) for name in ours)


def test_load_initial_weights__original_file__round_trip(pair: tuple[Any, Path], tmp_path: Path) -> None:
    model = imported(pair[1])
    torch.save({"model": to_original_detr(model.state_dict()), "epoch": 3}, tmp_path / "detr.pth")
    config = detr_from_folder(pair[1], recognise(load_state(pair[1]), "peer").tensors)[0]
    again = build_detr(config)
    report = load_initial_weights(again, tmp_path / "detr.pth")
    assert (report.source, report.missing) == ("DETR with the original names", ())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_state_dict__published_size__names_and_shapes_of_the_original(shared_dir: Path) -> None:
    from ecocli.config.detr import DETR_ARCHITECTURES
    from ecocli.weights.detr import infer_detr

    recorded = json.loads((shared_dir / "golden" / "statedict_detr_r50.json").read_text())
    with torch.device("meta"):
        model = build_detr(DETR_ARCHITECTURES["detr-r50"])
    state = model.state_dict()
    assert infer_detr(state) == DETR_ARCHITECTURES["detr-r50"]
    found = {name: list(tensor.shape) for name, tensor in to_original_detr(state).items()}
    assert found == {entry["key"]: entry["shape"] for entry in recorded["entries"]}
    # Counted on the original.
    assert sum(p.numel() for p in model.parameters()) == 41_524_768
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_302_368
