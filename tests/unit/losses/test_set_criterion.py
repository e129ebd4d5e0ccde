import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ecocli.losses.boxes import generalised_iou, pack_boxes, to_corners
from ecocli.losses.set_criterion import SetCriterion

P, Q, K = 3, 5, 4
COUNTS = (2, 0, 4)


def loss_of(logits: Tensor, boxes: Tensor, labels: list[Tensor], wanted: list[Tensor], queries: Tensor) -> float:
    """DETR's loss of one prediction under a given matching, image after image."""
    classes = torch.full((len(COUNTS), Q), K)
    distance = overlap = 0.0
    for image, count in enumerate(COUNTS):
        for place in range(count):
            query = queries[image, place]
            classes[image, query] = labels[image][place]
            found, true = boxes[image, query], wanted[image][place]
            distance += (found - true).abs().sum().item()
            overlap += 1 - generalised_iou(to_corners(found), to_corners(true)).item()
    surprise = F.cross_entropy(logits.transpose(1, 2), classes, torch.tensor([1.0] * K + [0.1])).item()
    return surprise + (5 * distance + 2 * overlap) / sum(COUNTS)


@pytest.mark.parametrize("matched_by", [None, [2, 1, 2], [0, 0, 0], [1, 2, 0]])
def test_set_criterion__matching_of_another_prediction__losses_of_that_matching(matched_by: list[int] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(P, len(COUNTS), Q, K + 1, generator=generator)
    boxes = 0.2 + 0.3 * torch.rand(P, len(COUNTS), Q, 4, generator=generator)
    labels = [torch.randint(0, K, (count,), generator=generator) for count in COUNTS]
    wanted = [0.2 + 0.3 * torch.rand(count, 4, generator=generator) for count in COUNTS]
    criterion, targets = SetCriterion(K), pack_boxes(labels, wanted)

    own = criterion(logits, boxes, targets, torch.ones(P))
    out = criterion(logits, boxes, targets, torch.ones(P), matched_by=matched_by)

    assert len({tuple(queries.flatten().tolist()) for queries in own.queries}) == P, "the case tells nothing"
    for prediction, owner in enumerate(matched_by or range(P)):
        assert torch.equal(out.queries[prediction], own.queries[owner])
        expected = loss_of(logits[prediction], boxes[prediction], labels, wanted, own.queries[owner])
        assert out.prediction_losses[prediction].sum().item() == pytest.approx(expected, rel=1e-5)
