"""A small network in place of the gate's linear layer, to see what linearity costs. For comparison only.

Shapes: N images, D features, E exits. One hidden layer on standardised features, hard-CE, AdamW on the cosine schedule;
a tenth of the rows chooses when to stop. Deterministic in the seed on one thread count.
"""

import copy

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ecocli.gates.solver import StandardisedFeatures
from ecocli.runtime.seeds import torch_generator

_BATCH_ROWS = 1024


class MlpGate:
    """A fitted two-layer gate."""

    def __init__(self, network: nn.Module, features: StandardisedFeatures) -> None:
        self._network = network
        self._features = features

    @torch.no_grad()
    def scores(self, raw: Float[np.ndarray, "N D"]) -> Float[Tensor, "N E"]:
        """Give the score of every exit."""
        scores: Tensor = self._network(self._features.standardise(raw))
        return scores


def fit_mlp(
    features: StandardisedFeatures,
    targets: Int[Tensor, " N"],
    exits: int,
    *,
    hidden: int = 64,
    epochs: int = 20,
    seed: int = 0,
) -> MlpGate:
    """Fit the network to the target exits.

    Args:
        features: Standardised features.
        targets: Exit index of each row.
        exits: E.
        hidden: Width of the hidden layer.
        epochs: Passes over the rows at most; the best one on held-out rows is kept.
        seed: Of weights, order and held-out rows.
    """
    generator = torch_generator("gate-mlp", seed)
    N, D = features.values.shape
    order = torch.randperm(N, generator=generator)
    watched, learned = order[: N // 10], order[N // 10 :]
    network = nn.Sequential(nn.Linear(D, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, exits))
    with torch.no_grad():
        for parameter in network.parameters():
            bound = D**-0.5 if parameter.shape[-1] == D else hidden**-0.5
            parameter.uniform_(-bound, bound, generator=generator)
    steps = epochs * -(-len(learned) // _BATCH_ROWS)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    best, kept = float("inf"), copy.deepcopy(network.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))  # dropout takes no generator
        for _ in range(epochs):
            network.train()
            shuffled = learned[torch.randperm(len(learned), generator=generator)]
            for start in range(0, len(shuffled), _BATCH_ROWS):
                rows = shuffled[start : start + _BATCH_ROWS]
                loss = nn.functional.cross_entropy(network(features.values[rows]), targets[rows])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
            held_out = _loss(network, features.values[watched], targets[watched])
            if held_out < best:
                best, kept = held_out, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return MlpGate(network.eval(), features)


@torch.no_grad()
def _loss(network: nn.Module, values: Float[Tensor, "n D"], targets: Int[Tensor, " n"]) -> float:
    network.eval()
    return float(nn.functional.cross_entropy(network(values), targets)) if len(targets) else 0.0
