"""Exponential moving average of the weights.

The average of parameters follows ``decay * average + (1 - decay) * weight`` after every step; buffers, such as
batch norm statistics, are copied, since averaging a running average means nothing.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model's present weights.

        Args:
            decay: Share of the former average that stays, per step.
        """
        self._decay = decay
        self._parameters = {name for name, _ in model.named_parameters()}
        self._average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        for name, tensor in model.state_dict().items():
            if name in self._parameters:
                self._average[name].lerp_(tensor, 1.0 - self._decay)
            else:
                self._average[name].copy_(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights under the model's names."""
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved averages."""
        for name, tensor in self._average.items():
            tensor.copy_(state[name])
