"""Step A of ECO-M2F: training all exits of one model, on one process or many, resumable after any kill.

Axes: P predictions (exits x supervised predictions), B images. Source: ECO-M2F (arXiv 2404.15244, section 3.1) on
Mask2Former's recipe (arXiv 2112.01527).

What the exits of a step share, and why the expected loss is that of Eq. 3 nonetheless:

- Backbone, projections and every encoder layer run once, up to the deepest exit of the step; an exit at depth k
  reads the tokens after k layers, which are what a model cut there would compute. Exact.
- All exits pass the shared decoder as one larger batch; no layer of it mixes images. Exact.
- Targets are prepared, moved and counted once. Exact.
- The random points are drawn once per image. Each prediction's points follow the original's law, and the expectation
  of a sum does not ask whether its terms are independent. Exact in expectation.
- With fewer exits per step than there are, the drawn ones are weighted up (see ``exits``). Exact in expectation.

With ``deepest_first`` the first steps train the deepest exit alone, and Eq. 3 holds from then on.

Nothing random has a state of its own: every number is derived from the seed and the step (or the image's position in
the stream), so a saved state is weights, optimiser and step. Normalisers are summed over processes and parts before
the forward pass; dividing a batch changes the loss by rounding only. Two things belong to a part nonetheless: the
statistics of batch norm that is trained (Cityscapes' ResNets; without accumulation, several GPUs share them), and the
size that images of differing sizes are padded to (no built-in recipe yields such).
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.batching import make_training_batch
from ecocli.data.workers import usable_cores
from ecocli.errors import DataError, EcoError, InterruptedRunError
from ecocli.model.contracts import ExitNetwork
from ecocli.runtime.context import Runtime
from ecocli.runtime.seeds import derive_seed
from ecocli.training.batches import (
    SampleSource,
    TrainingPart,
    is_loading_error,
    load_parts,
    loading_error,
)
from ecocli.training.division import BatchDivision
from ecocli.training.evaluation import ExitEvaluator, PeriodicEvaluation
from ecocli.training.exits import StepExits, choose_exits
from ecocli.training.metrics_log import nest_values
from ecocli.training.objective import StepLoss, make_objective
from ecocli.training.schedules import learning_rate_factor
from ecocli.training.state import TrainingState
from ecocli.training.supervised import TrainedModel, checkpoint_activations
from ecocli.training.trackers import Tracker, open_trackers

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves.

    Attributes:
        weights: The model's state dict, averaged if asked for.
        metrics: The lines of the metrics; empty on other processes than the main one.
        first_step: Step this process started from.
        seconds: Time this process trained, without the runs it resumed and without evaluations.
        evaluation_seconds: Time it evaluated the exits in between.
    """

    weights: dict[str, Tensor]
    metrics: str
    first_step: int
    seconds: float
    evaluation_seconds: float


@dataclass(frozen=True)
class _StepReport:
    loss: float
    terms: dict[str, float]
    learning_rate: float
    grad_norm: float | None


class Trainer:
    """One training run in one process of possibly many."""

    def __init__(
        self,
        config: TrainParentConfig,
        model: ExitNetwork,
        samples: SampleSource,
        runtime: Runtime,
        folder: Path,
        evaluator: ExitEvaluator | None = None,
    ) -> None:
        """Prepare a run, or take up the one in the folder.

        Args:
            model: Freshly initialised, the same on every process; trained in place.
            folder: Keeps the run's saved states and metrics; on a file system that all processes share.
            evaluator: Scores the exits in between; needed if the settings ask for that.

        Raises:
            UsageError: The batch cannot be divided evenly.
        """
        if config.evaluates and evaluator is None:
            raise ValueError(f"evaluation.every is {config.evaluation.every}, but there is no evaluator")
        self._config = config
        self._runtime = runtime
        self._samples = samples
        self._device = torch.device(runtime.device)
        self._division = BatchDivision(
            config.batch_size, runtime.world.rank, runtime.world.world_size, config.execution.accumulation
        )
        self._model = model.to(self._device).train()
        self._objective = make_objective(config.loss, model.num_classes)
        self._state = TrainingState(config, self._model, self._device, runtime.world, folder)
        self._evaluation = (
            PeriodicEvaluation(
                evaluator, self._model, self._state, runtime.world, split=config.evaluation.split, log=runtime.log
            )
            if evaluator is not None
            else None
        )
        if config.execution.activation_checkpointing:
            checkpoint_activations(self._model)
        self._forward = TrainedModel(
            self._model,
            device=self._device,
            world_size=runtime.world.world_size,
            compile_warning=runtime.log.warning if config.execution.compile else None,
        )

    def run(self) -> TrainingResult:
        """Train to the end.

        Raises:
            InterruptedRunError: A signal asked to stop, also during an evaluation; the state is saved.
            DataError: An image cannot be read, or a loss or gradient is not finite; the last saved state stays.
            UsageError: A loading process ended, or a state or TensorBoard's events cannot be saved.
        """
        runtime = self._runtime
        with ExitStack() as opened:
            trackers = open_trackers(self._config.execution, runtime.log, runtime.world, self._state.step)
            for tracker in trackers:
                opened.callback(tracker.close)
            try:
                return self._run(trackers)
            except RuntimeError as error:
                if is_loading_error(error):
                    raise loading_error(error) from error
                raise

    def _run(self, trackers: Sequence[Tracker]) -> TrainingResult:
        config, runtime, state = self._config, self._runtime, self._state
        first = state.step
        parts = load_parts(
            self._samples,
            config.seed,
            self._division,
            first_step=first,
            steps=config.steps,
            workers=min(config.execution.workers, usable_cores()),
            should_stop=lambda: runtime.stop.requested,
        )
        start_s = time.monotonic()
        self._evaluate_if_due(trackers, taken_up=True)
        # Closed on every way out: loading processes ignore signals and end when they are told to.
        with closing(parts), runtime.progress.task("training", config.steps, "step", first) as task:
            while state.step < config.steps:
                step = state.step
                report = self._train_step(step, parts)
                state.window.add(
                    {"loss": report.loss, "lr": report.learning_rate, "grad_norm": report.grad_norm, **report.terms}
                )
                state.step = step + 1
                if state.step % config.log_every == 0 or state.step == config.steps:
                    means = state.window.take_means()
                    if runtime.world.is_main:
                        state.metrics.write(nest_values(state.step, means))
                        for tracker in trackers:
                            tracker.write(state.step, means)
                if state.step % config.execution.checkpoint_every == 0 or state.step == config.steps:
                    state.save()
                seconds = self._training_seconds(start_s)
                task.advance(
                    1,
                    loss=report.loss,
                    **{f"exit{name.split('.')[1]}": v for name, v in report.terms.items() if name.endswith(".loss")},
                    lr=report.learning_rate,
                    images_per_s=(state.step - first) * config.batch_size / seconds,
                )
                # After saving: a kill during the evaluation costs no step.
                self._evaluate_if_due(trackers)
        evaluation_seconds = 0.0 if self._evaluation is None else self._evaluation.seconds
        return TrainingResult(
            state.weights(), state.metrics.text, first, self._training_seconds(start_s), evaluation_seconds
        )

    def _training_seconds(self, start_s: float) -> float:
        return time.monotonic() - start_s - (0.0 if self._evaluation is None else self._evaluation.seconds)

    def _evaluate_if_due(self, trackers: Sequence[Tracker], *, taken_up: bool = False) -> None:
        """Evaluate the exits if the schedule says so.

        Args:
            taken_up: Whether the state was just taken up: the evaluation may have been done before the interruption.
        """
        evaluation = self._evaluation
        if evaluation is None or not self._config.evaluates_after(self._state.step):
            return
        if taken_up and evaluation.is_done:
            return
        if not evaluation.run(trackers):
            raise self._interruption("evaluation")

    def _train_step(self, step: int, parts: Iterator[TrainingPart | EcoError]) -> _StepReport:
        config, world, state = self._config, self._runtime.world, self._state
        own: list[TrainingPart | EcoError] = []
        while len(own) < config.execution.accumulation and not any(isinstance(part, EcoError) for part in own):
            own.append(next(parts))
        num_objects, class_weight_sum = self._agree(own)
        exits = choose_exits(
            config.exit_depths,
            config.exit_weights,
            config.exits_in_step,
            config.seed,
            step,
            keep_deepest=config.keep_deepest,
            deepest_alone=config.trains_deepest_alone(step),
        )
        learning_rate = config.optimizer.lr * learning_rate_factor(config.schedule, step, config.steps)
        self._model.zero_grad(set_to_none=True)
        # Reported per exit: its whole loss, then the terms of its final prediction.
        terms = ("loss", *self._objective.terms)
        sums = torch.zeros(1 + len(terms) * len(exits.depths), device=self._device)
        not_finite: list[str] = []
        ready = [part for part in own if isinstance(part, TrainingPart)]
        for number, part in enumerate(ready, start=1):
            if number < len(ready):
                with self._forward.without_sync():
                    out = self._backward(part, exits, num_objects, class_weight_sum)
            else:
                out = self._backward(part, exits, num_objects, class_weight_sum)
            sums += self._summarise(out, exits)
            finite = out.image_losses.isfinite().tolist()
            not_finite += [image for image, good in zip(part.image_ids, finite, strict=True) if not good]
        # Normalised by a process's share, the losses average over processes, as the gradients do.
        totals = (world.sum_(sums.double().cpu()) / world.world_size).tolist()
        if not all(map(math.isfinite, totals)):
            images = [image for images in world.gather_objects(not_finite) for image in images]
            raise self._divergence_error(step, "loss", images)
        self._forward.drop_idle_gradients(exits.depths)
        grad_norm = state.apply_gradients(learning_rate)
        if grad_norm is not None and not math.isfinite(grad_norm):
            images = [i for ids in world.gather_objects([i for part in ready for i in part.image_ids]) for i in ids]
            raise self._divergence_error(step, "gradient", images)
        names = [f"exits.{depth}.{term}" for term in terms for depth in exits.depths]
        return _StepReport(totals[0], dict(zip(names, totals[1:], strict=True)), learning_rate, grad_norm)

    def _agree(self, own: list[TrainingPart | EcoError]) -> tuple[float, float]:
        """Sum the normalisers over parts and processes; stop together if one process has to.

        Returns:
            This process's share of the number of objects and of the sum of class weights.
        """
        world = self._runtime.world
        stopped = any(isinstance(part, InterruptedRunError) for part in own)
        failure = next((part for part in own if isinstance(part, EcoError) and not stopped), None)
        counts = [count for part in own if isinstance(part, TrainingPart) for count in part.counts]
        votes = torch.tensor(
            [
                float(sum(counts)),
                self._objective.class_weight_sum(counts, self._model.num_queries),
                float(failure is not None),
                float(self._runtime.stop.requested or stopped),
            ],
            dtype=torch.float64,
        )
        num_objects, class_weight_sum, failures, stops = world.sum_(votes).tolist()
        if failures:
            found = [error for error in world.gather_objects(failure) if error is not None]
            raise type(found[0])(" ".join(dict.fromkeys(map(str, found))))
        if stops:
            raise self._interruption("training")
        return max(num_objects, 1.0) / world.world_size, class_weight_sum / world.world_size

    def _interruption(self, work: str) -> InterruptedRunError:
        """Save the state and say so."""
        path = self._state.save()
        reason = self._runtime.stop.reason or "A signal to another process"
        return InterruptedRunError(
            f"{reason} stopped the {work} after step {self._state.step} of {self._config.steps}. The state is saved in "
            f"{path}; the same command resumes there."
        )

    def _backward(self, part: TrainingPart, exits: StepExits, num_objects: float, class_weight_sum: float) -> StepLoss:
        config = self._config
        model = self._model
        batch = make_training_batch(
            part.samples, model.pixel_mean, model.pixel_std, model.size_divisor, device=self._device
        )
        height, width = batch.images.shape[-2:]
        model.backbone.seed_drop_path([derive_seed("drop path", config.seed, p) for p in part.positions])
        dtype = _DTYPES[config.precision]
        with torch.autocast(self._device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits, regions = self._forward(batch.images, batch.image_sizes, exits.depths)
        out = self._objective(
            logits,
            regions,
            part.samples,
            (height, width),
            exits.weights,
            [derive_seed("points", config.seed, p) for p in part.positions],
            num_objects,
            class_weight_sum,
        )
        torch.autograd.backward(self._state.scaled(out.total))
        return out

    def _summarise(self, out: StepLoss, exits: StepExits) -> Tensor:
        """Return the total loss, then the whole loss and each term for every exit."""
        shape = (len(exits.depths), -1)
        finals = [term.view(shape)[:, -1] for term in out.terms.values()]
        return torch.cat([out.total.detach()[None], out.prediction_losses.detach().view(shape).sum(dim=1), *finals])

    def _divergence_error(self, step: int, what: str, images: list[str]) -> DataError:
        shown = ", ".join(images[:20]) + (f" and {len(images) - 20} more" if len(images) > 20 else "")
        return DataError(
            f"The {what} of step {step + 1} is not finite, with the images {shown}. Expected a finite one. "
            f"Nothing of this step was kept; the last good state is that after step {self._state.saved_step}. Check "
            "these images with `eco data check`; if they are sound, lower --lr, lengthen schedule.warmup_steps or set "
            "precision=float32."
        )
