"""Step A: trains a parent, a model with an exit after each of several encoder layers.

Inputs: ``init``, optional, a parent whose weights training starts from; published weights come as ``init_file``
of the settings instead, and their digest takes the place of the path in what is asked. The artifact holds
``model.safetensors`` (the state dict under its original's names), ``metrics.jsonl`` (see
``ecocli.training.metrics_log``) and ``loss.png``. Where the exits are evaluated in between, the split that tells their
quality is part of what is asked, because the metrics depend on it; the weights do not. How the work is done (device,
processes, accumulation, workers) is no part of what was asked; on the CPU with a fixed number of threads and processes,
the same settings give the same bytes, also after a kill.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from ecocli.artifacts.action import Action, Made, Plan
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import WEIGHTS_FILE
from ecocli.artifacts.manifest import ParentManifest, TrainedOn
from ecocli.artifacts.provenance import Provenance
from ecocli.artifacts.store import Store
from ecocli.config.train_parent import TrainParentConfig, WarmStartedConfig
from ecocli.data.categories import same_classes
from ecocli.data.datasets import require_drawn
from ecocli.data.hold_out import training_part
from ecocli.data.images import ImageDataset
from ecocli.errors import DataError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import user_path
from ecocli.tasks.registry import task_of
from ecocli.training.division import BatchDivision

if TYPE_CHECKING:
    from ecocli.model.contracts import ExitNetwork
    from ecocli.scoring.subset_evaluator import SubsetEvaluator

STAGE = "train-parent"
SCHEMA_VERSION = 3
_FEW_STEPS = 1000


@dataclass(frozen=True)
class TrainingData:
    """The data.

    Attributes:
        training: The images to train on: the split without those that are kept out.
        evaluation: The split that the exits are evaluated on in between; None where they are not.
    """

    training: ImageDataset
    evaluation: ImageDataset | None


@dataclass(frozen=True)
class TrainPlan(Plan[ParentManifest]):
    """A training."""

    config: TrainParentConfig = field(kw_only=True)
    data: TrainingData = field(kw_only=True)


def plan(
    config: TrainParentConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime, *, draw: bool = True
) -> TrainPlan:
    """Open the data and say exactly what is asked.

    Args:
        config: The settings; the number of classes is taken from the data, and so are the steps of ``epochs``.
        inputs: Digest of the parent to start from, as ``init``; may be empty.
        draw: Whether the ``shapes`` are drawn where they are not there yet; otherwise that is a `NotDrawnError`.

    Raises:
        DataError: The data set or the weights to start from are missing or faulty, or the two splits differ in their
            categories.
        UsageError: There is no such data set or split, two starts are given, or the batch cannot be divided among the
            processes.
        ArtifactError: The parent to start from is damaged, or of another architecture.
        InterruptedRunError: From the work: a signal stopped the training; its state is saved.
    """
    if config.init_file is not None and "init" in inputs:
        raise UsageError(
            f"Training is to start both from the file {config.init_file} and from the parent {inputs['init']}. Take "
            "init_file out of the --config file, or leave --init out."
        )
    world = runtime.world
    BatchDivision(config.batch_size, world.rank, world.world_size, config.execution.accumulation)
    initial = store.get(inputs["init"], ParentManifest) if "init" in inputs else None
    init_digest = _file_digest(config, runtime)
    if not draw:
        require_drawn(config.dataset)
    dataset = _open(config, runtime)
    training = training_part(dataset, config.hold_out)
    resolved = _fit_to_data(config, training)
    if initial is not None:
        _check_start(resolved, initial)
    data = TrainingData(training, _open_evaluation(resolved, dataset) if resolved.evaluates else None)
    # Listing and hashing a large data set takes a while: once is enough.
    splits = [split for split in (dataset, data.evaluation) if split is not None]
    fingerprints = {split.split: split.fingerprint if runtime.world.is_main else "" for split in splits}
    fingerprints = runtime.world.broadcast_object(fingerprints)
    asked = resolved if init_digest is None else WarmStartedConfig(**dict(resolved), init_digest=init_digest)
    action = Action(STAGE, SCHEMA_VERSION, asked, inputs, fingerprints)

    def work(folder: Path) -> Made[ParentManifest] | None:
        own = TrainedOn(
            dataset=resolved.dataset.source,
            split=resolved.split,
            fingerprint=fingerprints[resolved.split],
            hold_out=resolved.hold_out,
        )
        trained_on = (*(() if initial is None else initial.manifest.trained_on), own)
        return _train(action, resolved, data, initial, trained_on, runtime, folder)

    return TrainPlan(action, ParentManifest, work, config=resolved, data=data)


def _check_start(config: TrainParentConfig, initial: Artifact[ParentManifest]) -> None:
    """Refuse a parent of another architecture."""
    from ecocli.artifacts.tensors import load_tensors
    from ecocli.model.builders import build_unfilled
    from ecocli.training.warm_start import fitting_weights

    model = build_unfilled(config.architecture)
    fitting_weights(model, initial.read(WEIGHTS_FILE, load_tensors), initial.digest)


def _fit_to_data(config: TrainParentConfig, dataset: ImageDataset) -> TrainParentConfig:
    """Take classes and steps from the data, and write what says the same in one way."""
    task = task_of(config.architecture)
    classes = {"num_classes": task.num_classes(config.architecture, dataset.categories)}
    changes: dict[str, object] = {"architecture": config.architecture.model_copy(update=classes)}
    if config.epochs is not None:
        # As a fraction of what was typed: in binary, 1.1 epochs of 50 images would be 56 steps of one image.
        changes["steps"] = ceil(Fraction(repr(config.epochs)) * len(dataset) / config.batch_size)
    if len(config.exit_depths) == 1 and config.alpha == "depth":
        changes["alpha"] = "uniform"
    return config.model_copy(update=changes)


def _announce(config: TrainParentConfig, dataset: ImageDataset, starts_somewhere: bool, runtime: Runtime) -> None:
    """Print what the steps are in epochs, so that another batch size never changes them silently, and what is amiss."""
    if not runtime.world.is_main:
        return
    epochs = config.steps * config.batch_size / max(len(dataset), 1)
    runtime.log.info(
        "%s of %s: %s epochs of %s%s",
        *(_number_of(config.steps, "step"), _number_of(config.batch_size, "image")),
        *(f"{epochs:.3g}" if epochs < 100 else f"{epochs:,.0f}", _number_of(len(dataset), "image")),
        f"; hold_out {config.hold_out:g} keeps the others out" if config.hold_out else "",
    )
    if config.dataset.name.endswith(".toml") and 0 < config.steps < _FEW_STEPS:
        runtime.log.warning(
            "%d steps are few, whatever the size of the data set: set more with --steps or --epochs.", config.steps
        )
    if not starts_somewhere and config.steps and not config.architecture.name.endswith("-shapes"):
        frozen = getattr(config.architecture.backbone, "norm", None) == "frozen_bn"
        runtime.log.warning(
            "%s starts from random weights%s: it will learn little, slowly. Start from a published model or a "
            "backbone's weights (--init FILE), or train a small model (--arch m2f-shapes). See docs/own-data.md.",
            config.architecture.name,
            ", behind batch norms that are frozen and were never trained" if frozen else "",
        )


def _number_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _file_digest(config: TrainParentConfig, runtime: Runtime) -> str | None:
    if config.init_file is None:
        return None
    from ecocli.weights.files import source_digest

    digest = source_digest(user_path(config.init_file))
    if runtime.world.is_main:
        runtime.log.info("init %s (%s)", digest, config.init_file)
    return digest


def preview(config: TrainParentConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> TrainPlan:
    """Say what would be asked, without drawing or writing anything.

    Raises:
        NotDrawnError: The data is not there yet, and it is part of what is asked.
    """
    planned = plan(config, inputs, store, runtime, draw=False)
    started = config.init_file is not None or "init" in inputs
    _announce(planned.config, planned.data.training, started, runtime)
    return planned


def _open(config: TrainParentConfig, runtime: Runtime) -> ImageDataset:
    with ExitStack() as stack:
        report: Callable[[int], None] | None = None

        def advance(count: int) -> None:
            # The display starts with the first image drawn: mostly the data is there already.
            nonlocal report
            if report is None:
                shapes = config.dataset.drawn
                task = stack.enter_context(
                    runtime.progress.task("drawing shapes", total=shapes.train + shapes.val, unit="image")
                )
                report = task.advance
            report(count)

        return task_of(config.architecture).open(config.dataset, config.split, advance=advance)


def _open_evaluation(config: TrainParentConfig, training: ImageDataset) -> ImageDataset:
    split = config.evaluation.split
    if split == config.split:
        return training
    way_out = "Or train without evaluating the exits in between: --eval-every 0."
    try:
        dataset = task_of(config.architecture).open(config.dataset, split)
    except (DataError, UsageError) as error:
        raise type(error)(f"{error} Another split is named by --set evaluation.split=NAME. {way_out}") from error
    if not same_classes(training.categories, dataset.categories):
        raise DataError(
            f"The split {split} has {len(dataset.categories)} categories, the split {config.split} that is trained on "
            f"has {len(training.categories)}, and they are not the same, in {dataset.annotation_file} and "
            f"{training.annotation_file}. Prepare both in one way. {way_out}"
        )
    return dataset


def _train(
    action: Action,
    config: TrainParentConfig,
    data: TrainingData,
    initial: Artifact[ParentManifest] | None,
    trained_on: tuple[TrainedOn, ...],
    runtime: Runtime,
    folder: Path,
) -> Made[ParentManifest] | None:
    # torch is loaded only where something is computed; a result that is there is returned without it.
    from ecocli.artifacts.tensors import write_tensors
    from ecocli.training.curves import draw_loss_curve
    from ecocli.training.loop import Trainer
    from ecocli.training.metrics_log import parse_metrics

    samples = task_of(config.architecture).samples(
        data.training, config.architecture.num_classes, config.dataset, config.seed
    )
    _announce(config, data.training, config.init_file is not None or initial is not None, runtime)
    model = _initial_model(config, initial, runtime)
    with runtime.stop.orderly():
        result = Trainer(config, model, samples, runtime, folder, _evaluator(config, data, runtime)).run()
    if not runtime.world.is_main:
        return None
    steps = config.steps - result.first_step
    notes = {
        "execution": config.execution.model_dump(mode="json"),
        "resumed_at_step": result.first_step,
        "training_seconds": round(result.seconds, 3),
        "evaluation_seconds": round(result.evaluation_seconds, 3),
        "images_per_second": round(steps * config.batch_size / max(result.seconds, 1e-9), 3),
    }
    manifest = ParentManifest(
        **action.recorded,
        architecture=config.architecture,
        exit_depths=config.exit_depths,
        categories=tuple(category.recorded for category in data.training.categories),
        dataset=config.dataset,
        test_resize=config.dataset.test_resize,
        steps=config.steps,
        trained_on=trained_on,
    )
    weights = folder / WEIGHTS_FILE
    write_tensors(weights, result.weights)
    files: dict[str, Path | bytes] = {
        WEIGHTS_FILE: weights,
        "metrics.jsonl": result.metrics.encode(),
        "loss.png": draw_loss_curve(parse_metrics(result.metrics)),
    }
    return Made(manifest, files, Provenance.model_validate(notes))


def _evaluator(config: TrainParentConfig, data: TrainingData, runtime: Runtime) -> "SubsetEvaluator | None":
    if data.evaluation is None:
        return None
    from ecocli.scoring.subset_evaluator import SubsetEvaluator

    task, categories = task_of(config.architecture), data.evaluation.categories
    score, load_truth = task.scorer(config.architecture, categories, "ap")
    return SubsetEvaluator(
        data.evaluation,
        config.architecture,
        config.exit_depths,
        config.dataset.test_resize,
        runtime,
        score=score,
        load_truth=load_truth,
        qualities=lambda results: task.qualities(results, categories),
        images=config.evaluation.images,
        batch_size=config.evaluation.batch_size,
        precision=config.precision,
    )


def _initial_model(
    config: TrainParentConfig, initial: Artifact[ParentManifest] | None, runtime: Runtime
) -> "ExitNetwork":
    from ecocli.artifacts.tensors import load_tensors
    from ecocli.model.builders import build_model
    from ecocli.runtime.seeds import seed_everything
    from ecocli.training.warm_start import start_from
    from ecocli.weights.loading import load_initial_weights

    seed_everything("init", config.seed)
    model = build_model(config.architecture)
    world = runtime.world
    synchronised = getattr(config.architecture.backbone, "norm", None) == "sync_bn"
    if synchronised and world.is_main and world.world_size > 1 and runtime.device == "cpu":
        runtime.log.warning("On CPUs the backbone's batch norm is not synchronised: each process has its statistics.")
    if config.init_file is not None:
        report = load_initial_weights(model, user_path(config.init_file))
        if world.is_main:
            runtime.log.info("%s: %s", config.init_file, report.summary())
    if initial is not None:
        notes = start_from(model, initial.read(WEIGHTS_FILE, load_tensors), initial.digest)
        for note in notes if world.is_main else []:
            runtime.log.info("%s", note)
    return model
