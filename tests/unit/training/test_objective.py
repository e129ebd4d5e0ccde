import torch

from ecocli.config.train_parent import SetLossConfig
from ecocli.data.box_training import BoxSample
from ecocli.training.objective import make_objective

P, B, Q, K = 6, 2, 5, 3


def test_make_objective__boxes_matched_by_the_deepest__losses_of_its_matching() -> None:
    """Three exits of two layers: a layer's predictions are those of the deepest exit's same layer, shuffled."""
    generator = torch.Generator().manual_seed(0)
    deepest = torch.randn(2, B, Q, K + 1, generator=generator), torch.rand(2, B, Q, 4, generator=generator) / 2 + 0.2
    order = torch.tensor([3, 0, 4, 1, 2])
    logits, boxes = (torch.cat((x[:, :, order], x[:, :, order], x)) for x in deepest)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    boxes_of = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.4, 0.3]])
    samples = [BoxSample(image, torch.tensor([0, 2]), boxes_of, str(index)) for index in range(B)]
    losses = {}
    for matching in ("own", "deepest"):
        objective = make_objective(SetLossConfig(matching=matching), K)
        norm = objective.class_weight_sum([2, 2], Q)
        losses[matching] = objective(logits, boxes, samples, (8, 8), [1.0] * 3, [0, 0], 4.0, norm).prediction_losses
    # Own matching does not see the shuffle; the deepest exit's own is that of both.
    torch.testing.assert_close(losses["own"][:4], losses["own"][4:].repeat(2))
    torch.testing.assert_close(losses["deepest"][4:], losses["own"][4:])
    assert (losses["deepest"][:4] > losses["own"][:4] + 0.1).all()
