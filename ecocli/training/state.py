"""The part of a training run that changes: weights, optimiser, averages, loss scale, metrics, step.

It saves itself to the run's folder and takes up what lies there. Only the main process writes; all of them read.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecocli.config.train_parent import TrainParentConfig
from ecocli.model.contracts import ExitNetwork
from ecocli.runtime.distributed import World
from ecocli.runtime.files import make_directory
from ecocli.training.checkpoints import (
    RunState,
    load_evaluation,
    load_optimizer_tensors,
    load_state,
    optimizer_tensors,
    save_evaluation,
    save_state,
)
from ecocli.training.ema import WeightAverage
from ecocli.training.metrics_log import MetricsLog, MetricsWindow, encode_line
from ecocli.training.optimizer import build_optimizers, group_parameters, hidden_matrices, set_learning_rate


class TrainingState:
    """What changes from step to step.

    Attributes:
        saved_step: Step of the latest saved state.
        window: Metrics since the last line of the log.
    """

    def __init__(
        self, config: TrainParentConfig, model: ExitNetwork, device: torch.device, world: World, folder: Path
    ) -> None:
        """Start at step 0, or where the state in the folder left off.

        Args:
            model: On its device, with its first weights.
            world: The processes; all must see the same folder.
        """
        settings = config.optimizer
        self._model = model
        self._world = world
        self._folder = folder
        self._clip_norm = settings.clip_norm or math.inf
        muon = hidden_matrices(model) if settings.kind == "muon" else []
        self._groups = group_parameters(model, settings.weight_decay, settings.backbone_lr_multiplier, muon)
        self._parameters = [parameter for group in self._groups for parameter in group.parameters]
        self._names = {
            id(parameter): name
            for group in self._groups
            for name, parameter in zip(group.names, group.parameters, strict=True)
        }
        self.optimizers = build_optimizers(self._groups)
        self._average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.metrics = MetricsLog(folder / "metrics.jsonl")
        self.window = MetricsWindow()
        self.step = 0
        self.saved_step = 0
        self._resume()

    def _resume(self) -> None:
        found = load_state(self._folder) if self._world.is_main else None
        # The main process decides, so that all go on from the same step.
        step = self._world.broadcast_object(None if found is None else found.step)
        if step is not None:
            state = load_state(self._folder) if found is None else found
            if state is None or state.step != step:
                raise FileNotFoundError(
                    f"{self._folder} shows this process no state of step {step}: it must lie on a shared file system"
                )
            self._model.load_state_dict(dict(state.tensors["model"]))
            load_optimizer_tensors(self.optimizers, self._names, state.tensors["optimizer"])
            if self._average is not None:
                self._average.load_state_dict(state.tensors["average"])
            self._scaler.load_state_dict(state.values["scaler"])
            self.window = MetricsWindow(state.values["window"])
            self.step = self.saved_step = state.step
        if self._world.is_main:
            make_directory(self._folder)
            self.metrics.resume("" if found is None else found.metrics + load_evaluation(self._folder, found.step))
        self._world.barrier()

    def record_evaluation(self, line: dict[str, Any]) -> None:
        """Write the line of an evaluation after ``step``, and keep it should the run go on from the state of this step.

        Raises:
            UsageError: The file system refuses.
        """
        self.metrics.write(line)
        if self.saved_step == self.step:
            save_evaluation(self._folder, self.step, encode_line(line))

    def save(self) -> Path:
        """Save the state after ``step`` and return where it lies."""
        path = self._folder
        if self._world.is_main:
            tensors = {
                "model": self._model.state_dict(),
                "optimizer": optimizer_tensors(self.optimizers, self._names),
            }
            if self._average is not None:
                tensors["average"] = self._average.state_dict()
            values = {"scaler": self._scaler.state_dict(), "window": self.window.state()}
            path = save_state(self._folder, RunState(self.step, tensors, values, self.metrics.text))
        self.saved_step = self.step
        return path

    def scaled(self, loss: Tensor) -> Tensor:
        """Scale a loss for float16; the loss itself otherwise."""
        return self._scaler.scale(loss)

    def apply_gradients(self, learning_rate: float) -> float | None:
        """Clip, take one step of the optimiser, average.

        With float16, gradients that overflow under the loss scale halve it, and the step is left out. There is an end
        to that: at a scale of 1 nothing is scaled, and gradients that overflow still do so by themselves. The first
        scale, 65536, gets there in 16 steps, and it doubles only after 2000 good steps in a row.

        Returns:
            Norm of all gradients before clipping, or None for a step left out. If the norm is not finite, neither
            weights nor averages have changed, and no lower scale would help.
        """
        set_learning_rate(self.optimizers, learning_rate)
        for optimizer in self.optimizers:
            self._scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm).item()
        if not math.isfinite(norm):
            scale = self._scaler.get_scale()  # 1 without float16
            self._scaler.update()
            # Finite gradients whose norm is infinite leave the scale as it is.
            return None if scale > 1.0 and self._scaler.get_scale() < scale else norm
        for optimizer in self.optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self._model)
        return norm

    def weights(self) -> dict[str, Tensor]:
        """Return the model's state dict, averaged if asked for."""
        return self._model.state_dict() if self._average is None else self._average.state_dict()
