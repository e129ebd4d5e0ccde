import torch
from torch import nn

from ecocli.training.ema import WeightAverage


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))


def test_update__two_steps__averages_weights_and_copies_buffers() -> None:
    # By hand: 0 -> 0.75 x 0 + 0.25 x 4 = 1 -> 0.75 x 1 + 0.25 x 8 = 2.75.
    model = small_model()
    model[0].weight.data.fill_(0.0)
    average = WeightAverage(model, decay=0.75)
    for weight, mean in ((4.0, 1.0), (8.0, 2.0)):
        model[0].weight.data.fill_(weight)
        model[1].running_mean.fill_(mean)
        model[1].num_batches_tracked += 1
        average.update(model)
    state = average.state_dict()
    assert state["0.weight"].item() == 2.75
    assert state["1.running_mean"].item() == 2.0
    assert state["1.num_batches_tracked"].item() == 2
    assert model[0].weight.item() == 8.0


def test_load_state_dict__saved_average__goes_on_from_it() -> None:
    model = small_model()
    saved = {name: torch.full_like(tensor, 3) for name, tensor in model.state_dict().items()}
    average = WeightAverage(model, decay=0.5)
    average.load_state_dict(saved)
    model[0].weight.data.fill_(5.0)
    average.update(model)
    assert average.state_dict()["0.weight"].item() == 4.0
    assert saved["0.weight"].item() == 3.0
