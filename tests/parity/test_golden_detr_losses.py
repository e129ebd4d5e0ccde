"""DETR's losses, matches and gradients through the whole model against the recorded original."""

from pathlib import Path
from typing import Any

import pytest
import torch
from parity.golden import load_recording
from parity.test_golden_detr import DETR_SMALL, padded_batch
from torch import Tensor

from ecocli.losses.boxes import PackedBoxes, pack_boxes
from ecocli.losses.set_criterion import SetCriterion
from ecocli.model.builders import build_detr
from ecocli.model.detr import Detr
from ecocli.weights.detr import recognise_detr, to_original_detr

DEPTHS = (1, 2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def recording(shared_dir: Path) -> tuple[dict[str, Tensor], Any]:
    return load_recording(shared_dir, "golden_detr_small")


@pytest.fixture
def model(recording: tuple[dict[str, Tensor], Any]) -> Detr:
    state = {key.removeprefix("state."): t for key, t in recording[0].items() if key.startswith("state.")}
    recognised = recognise_detr(state)
    assert recognised is not None
    model = build_detr(DETR_SMALL)
    model.load_state_dict(recognised[1])
    return model.eval()


def targets_of(tensors: dict[str, Tensor]) -> PackedBoxes:
    return pack_boxes([tensors[f"{n}.target.labels"] for n in "ab"], [tensors[f"{n}.target.boxes"] for n in "ab"])


@torch.no_grad()
def test_set_criterion__recorded_batch__same_matches_and_losses_at_every_exit(
    recording: tuple[dict[str, Tensor], Any], model: Detr
) -> None:
    tensors, notes = recording
    batch, sizes = padded_batch(tensors, "ab")
    found = model(batch, DEPTHS, image_sizes=sizes)
    losses = SetCriterion(91)(
        found.pred_logits.flatten(0, 1), found.pred_boxes.flatten(0, 1), targets_of(tensors), torch.ones(18)
    )
    for exit_index, depth in enumerate(DEPTHS):
        expected = notes["losses"][f"exit{depth}"]
        matches = notes["matches"][f"exit{depth}"]
        for layer, suffix in ((0, "_0"), (1, "_1"), (2, "")):
            row = 3 * exit_index + layer
            for name, key in (("class", "loss_ce"), ("box", "loss_bbox"), ("giou", "loss_giou")):
                assert losses.terms[name][row].item() == pytest.approx(expected[key + suffix], abs=1e-4), (depth, key)
            wanted = matches["final"] if layer == 2 else matches["aux"][layer]
            for image, (queries, objects) in enumerate(wanted):
                assert losses.queries[row, image, objects].tolist() == queries
        total = losses.prediction_losses[3 * exit_index : 3 * exit_index + 3].sum().item()
        assert total == pytest.approx(notes["total_weighted"][f"exit{depth}"], abs=1e-4 * 45)


@pytest.mark.parametrize(
    ("key", "depths", "alphas"),
    [("grad_exit6", (6,), (1.0,)), ("grad_alpha_k", (2, 3, 4, 5, 6), (2.0, 3.0, 4.0, 5.0, 6.0))],
)
def test_set_criterion__recorded_batch__same_gradients(
    recording: tuple[dict[str, Tensor], Any],
    model: Detr,
    key: str,
    depths: tuple[int, ...],
    alphas: tuple[float, ...],
) -> None:
    tensors, notes = recording
    batch, sizes = padded_batch(tensors, "ab")
    found = model(batch, depths, image_sizes=sizes)
    weights = torch.tensor(alphas).repeat_interleave(3)
    losses = SetCriterion(91)(
        found.pred_logits.flatten(0, 1), found.pred_boxes.flatten(0, 1), targets_of(tensors), weights
    )
    losses.total.backward()
    if key == "grad_alpha_k":
        assert losses.total.item() == pytest.approx(notes["total_alpha_k"], rel=1e-5)
    assert losses.image_losses.sum().item() == pytest.approx(losses.total.item(), rel=1e-6)
    # Under the original's names; what it does not train, we do not train either.
    gradients = to_original_detr({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert set(gradients) == set(notes[key]["grad_norms"])
    for name, norm in notes[key]["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-4), name
    prefix = f"{key}.grad."
    recorded = {n.removeprefix(prefix): g for n, g in tensors.items() if n.startswith(prefix)}
    assert len(recorded) == 5
    for name, gradient in recorded.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
