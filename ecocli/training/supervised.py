"""The model as the training loop calls it: all supervised predictions of some exits, on one or many processes.

Axes: B images, E exits, S supervised predictions, Q queries, K classes, P predictions (E x S), H W pixels.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ecocli.model.compiled import compile_backbone
from ecocli.model.contracts import ExitNetwork, Size
from ecocli.model.layers import synchronise_norms


class SupervisedModel(nn.Module):
    """A model whose output is a plain pair of tensors, exits and decoder layers on one axis."""

    def __init__(self, model: ExitNetwork, reach_all: bool = False) -> None:
        """Wrap a model.

        Args:
            reach_all: Whether the backward pass reaches the layers beyond the deepest exit too, with zeros.
        """
        super().__init__()
        self.model = model
        self._reach_all = reach_all

    def forward(
        self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size], exit_depths: tuple[int, ...]
    ) -> tuple[Float[Tensor, "P B Q K1"], Float[Tensor, "P B Q *region"]]:
        """Predict at each exit; the S predictions of the first exit come first, its final one last of them."""
        logits, regions = self.model.predict_supervised(images, image_sizes, exit_depths)
        idle = idle_parameters(self.model, exit_depths) if self._reach_all else []
        if idle:
            logits = logits + 0.0 * torch.stack([parameter.flatten()[0] for parameter in idle]).sum()
        return logits, regions


class TrainedModel:
    """A supervised model, its backbone compiled and all of it spread over processes as asked."""

    def __init__(
        self,
        model: ExitNetwork,
        *,
        device: torch.device,
        world_size: int,
        compile_warning: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare a model that lies on its device.

        Args:
            world_size: Number of processes; with more than one the gradients are averaged over them.
            compile_warning: Asks for a compiled backbone, and is told if this machine cannot compile.
        """
        if world_size > 1 and device.type == "cuda":
            synchronise_norms(model)
        self._model = model
        # Processes wait for each other's gradients of every parameter, so all of them must get one.
        module: nn.Module = SupervisedModel(model, reach_all=world_size > 1)
        if compile_warning is not None:
            compile_backbone(model, compile_warning)
        self._parallel: DistributedDataParallel | None = None
        if world_size > 1:
            devices = [device] if device.type == "cuda" else None
            self._parallel = DistributedDataParallel(module, device_ids=devices)
        self._module = module if self._parallel is None else self._parallel

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size], exit_depths: tuple[int, ...]
    ) -> tuple[Float[Tensor, "P B Q K1"], Float[Tensor, "P B Q *region"]]:
        """Predict; see ``SupervisedModel.forward``."""
        logits, regions = self._module(images, image_sizes, exit_depths)
        return logits, regions

    def drop_idle_gradients(self, exit_depths: Sequence[int]) -> None:
        """Forget the zeros of layers that a step did not use: the optimiser must pass them over, not decay them."""
        for parameter in idle_parameters(self._model, exit_depths):
            parameter.grad = None

    def without_sync(self) -> AbstractContextManager[None]:
        """Return a context in which gradients add up in each process alone: all parts of a step but the last."""
        return nullcontext() if self._parallel is None else self._parallel.no_sync()


def idle_parameters(model: ExitNetwork, exit_depths: Sequence[int]) -> list[nn.Parameter]:
    """Return the parameters of the encoder layers that none of these exits runs."""
    idle = model.exits.idle(exit_depths)
    return [parameter for index in idle for parameter in model.encoder_layers[index].parameters()]


def checkpoint_activations(model: ExitNetwork) -> None:
    """Let the transformer layers recompute their activations in the backward pass."""
    for layer in model.transformer_layers():
        # An instance attribute hides the method; a wrapper module would change the names in the state dict.
        layer.__dict__["forward"] = partial(checkpoint, layer.forward, use_reentrant=False)
