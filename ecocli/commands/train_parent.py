"""``eco train-parent``: Step A of the recipe; prints the parent's digest."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.commands import options
from ecocli.commands.common import (
    environment_data_root,
    gather_settings,
    make_runtime,
    open_store,
    plan_on_data,
    resolve,
    resolve_input,
    run_stage,
)
from ecocli.commands.options import option
from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.loading import deep_merge
from ecocli.config.recipes import train_parent_preset
from ecocli.config.train_parent import TrainParentConfig
from ecocli.errors import UsageError
from ecocli.stages import train_parent as stage

_WEIGHT_SUFFIXES = (".pkl", ".pth", ".pt", ".safetensors")


def train_parent(
    dataset: Annotated[
        str | None, option("--dataset", "NAME", "shapes, coco, cityscapes, or a .toml file.  [default: shapes]")
    ] = None,
    arch: Annotated[str | None, option("--arch", "NAME", "Architecture preset.  [default: the data set's]")] = None,
    init: Annotated[
        str | None,
        option(
            "--init",
            "PARENT|FILE|FOLDER",
            "Start from a parent, published weights or a backbone's; paths go first.  [default: random weights]",
        ),
    ] = None,
    layers: Annotated[int | None, option("--layers", "N", "Encoder layers.  [default: 6]", min=1)] = None,
    exits: Annotated[
        str | None, option("--exits", "K,K,..", "Encoder depths of the exits.  [default: 2 to the deepest]")
    ] = None,
    alpha: Annotated[
        str | None, option("--alpha", "depth|uniform|A,A,..", "Loss weight of each exit.  [default: the data set's]")
    ] = None,
    exits_per_step: Annotated[
        str | None, option("--exits-per-step", "N|all", "Exits drawn per step.  [default: the data set's]")
    ] = None,
    deepest_first: Annotated[
        float | None,
        option(
            "--deepest-first",
            "RATIO",
            "Train the deepest exit alone in this fraction of the steps, then all.  [default: the data set's]",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    hold_out: Annotated[
        float | None,
        option(
            "--hold-out",
            "SHARE",
            "Keep this share of the images out, for a gate to be fitted on.  [default: the data set's]",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    steps: Annotated[
        int | None, option("--steps", "N", "Optimisation steps.  [default: the data set's]", min=0)
    ] = None,
    epochs: Annotated[
        float | None, option("--epochs", "E", "Passes over the images, in place of --steps; such as 0.5.")
    ] = None,
    batch_size: Annotated[
        int | None,
        option("--batch-size", "N", "Images per step, over all processes.  [default: the data set's]", min=1),
    ] = None,
    precision: Annotated[
        str | None,
        option(
            "--precision", "float32|bfloat16|float16", "Number format of the forward pass.  [default: the data set's]"
        ),
    ] = None,
    lr: Annotated[float | None, option("--lr", "RATE", "Peak learning rate.  [default: the data set's]")] = None,
    eval_every: Annotated[
        int | None,
        option(
            "--eval-every",
            "STEPS",
            "Evaluate every exit each STEPS steps; 0 disables.  [default: the data set's]",
            min=0,
        ),
    ] = None,
    eval_images: Annotated[
        int | None,
        option(
            "--eval-images", "N", "Images of the val split used for --eval-every.  [default: the data set's]", min=1
        ),
    ] = None,
    workers: Annotated[
        int | None,
        option("--workers", "N", "Processes that load images, at most one per core.  [default: the data set's]", min=0),
    ] = None,
    data_root: options.DataRoot = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    name: options.Name = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train the parent model with all its exits (Step A) and print its digest.

    The same command resumes a run that was interrupted or killed.
    """
    opened = open_store(store)
    with make_runtime(device, threads) as runtime:
        init_file = init if init is not None and _is_path(init) else None
        inputs, initial = _resolve_parent(opened, init if init_file is None else None, runtime.log)
        # The folder that the environment names gives way to all that the user says.
        surroundings = {"dataset": {"root": environment_data_root()}}
        resolved = resolve(
            TrainParentConfig,
            preset=lambda settings: deep_merge(
                train_parent_preset(settings, initial or _architecture_of_file(settings)), surroundings
            ),
            config_path=config,
            flags={
                "dataset.name": dataset,
                "dataset.root": None if data_root is None else str(data_root),
                "init_file": init_file,
                "architecture.name": arch,
                "architecture.pixel_decoder.encoder.layers": layers,
                "exit_depths": None if exits is None else _numbers("--exits", exits, int),
                "alpha": None if alpha is None else _numbers("--alpha", alpha, float, ("depth", "uniform")),
                "exits_per_step": None if exits_per_step is None else _count_or_all("--exits-per-step", exits_per_step),
                "deepest_first": deepest_first,
                "hold_out": hold_out,
                "steps": steps,
                "epochs": epochs,
                "batch_size": batch_size,
                "precision": precision,
                "optimizer.lr": lr,
                "evaluation.every": eval_every,
                "evaluation.images": eval_images,
                "execution.workers": workers,
                "seed": seed,
            },
            assignments=assignments,
            alternatives=("steps", "epochs"),
        )
        plan = plan_on_data(
            lambda draw: (stage.plan if draw else stage.preview)(resolved, inputs, opened, runtime),
            runtime,
            stage.STAGE,
            resolved,
            inputs,
            dry_run=dry_run,
            unknown=("steps",) if resolved.epochs is not None else (),
            as_json=as_json,
        )
        if plan is None:
            return
        _check_classes(gather_settings(config, {}, assignments), plan.config.architecture.num_classes)
        run_stage(plan, opened, runtime, force=force, names=name, dry_run=dry_run, as_json=as_json)


def _check_classes(said: Mapping[str, object], found: int) -> None:
    """Refuse a number of classes that is not the data set's: training takes the data set's."""
    architecture = said.get("architecture")
    wanted = architecture.get("num_classes", found) if isinstance(architecture, Mapping) else found
    if wanted != found:
        raise UsageError(
            f"architecture.num_classes is {wanted}, but the data set has {found} classes, which decide. Leave it out."
        )


def _is_path(text: str) -> bool:
    """Tell a file or folder from the name or digest of a parent, also one that is not there."""
    return "/" in text or text.endswith(_WEIGHT_SUFFIXES) or Path(text).exists()


def _resolve_parent(
    store: Store, reference: str | None, log: logging.Logger
) -> tuple[dict[str, str], AnyArchitecture | None]:
    """Find the parent to start from, and its architecture."""
    if reference is None:
        return {}, None
    digest = resolve_input(store, "parent", reference, log)
    manifest = store.get(digest, ParentManifest).manifest
    return {"init": digest}, manifest.architecture


def _architecture_of_file(settings: Mapping[str, object]) -> AnyArchitecture | None:
    """Read the architecture off the weights file, unless the user names one."""
    path, named = settings.get("init_file"), settings.get("architecture")
    if not isinstance(path, str) or (isinstance(named, Mapping) and "name" in named):
        return None
    from ecocli.weights.initial import initial_architecture

    return initial_architecture(Path(path))


def _numbers(option: str, text: str, kind: type[int] | type[float], words: Sequence[str] = ()) -> object:
    """Read a comma-separated list of numbers, or one of some words."""
    if text in words:
        return text
    try:
        return [kind(item) for item in text.split(",")]
    except ValueError as error:
        example = "2,3,4" if kind is int else "1,2,4"
        expected = " or ".join([*words, f"numbers such as {example}"])
        raise UsageError(f"{option} is {text!r}, expected {expected}.") from error


def _count_or_all(option: str, text: str) -> int | str:
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{option} is {text!r}, expected all or a number such as 1.") from error
