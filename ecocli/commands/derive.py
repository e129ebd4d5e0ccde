"""``eco derive``: Step B of the recipe; prints the digest of the derived tables."""

import os
import re
from collections.abc import Mapping
from typing import Annotated

import typer

from ecocli.commands import options
from ecocli.commands._parent_dataset import parent_dataset_preset
from ecocli.commands.common import (
    emit_result,
    make_runtime,
    open_store,
    plan_on_data,
    resolve,
    resolve_input,
    run_stage,
)
from ecocli.commands.options import option
from ecocli.config.derive import DeriveConfig
from ecocli.errors import UsageError
from ecocli.stages import derive as stage
from ecocli.stages.derive import Shard


def derive(
    parent: Annotated[str | None, option("--parent", "PARENT", "Parent to measure.  [default: the latest]")] = None,
    dataset: options.Dataset = None,
    splits: Annotated[str | None, option("--splits", "NAME,NAME", "Splits to measure.  [default: train,val]")] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Measure each image's mirror image too: what a gate can attain.")
    ] = False,
    batch_size: options.ImagesPerBatch = None,
    part_images: Annotated[
        int | None, option("--part-images", "N", "Images between two saved states.  [default: 256]", min=1)
    ] = None,
    shard: Annotated[
        str | None,
        option(
            "--shard",
            "I/N",
            "Take every N-th part, from I = 0; the last joins them.  [default: the Slurm array task, or 0/1]",
        ),
    ] = None,
    data_root: options.DataRoot = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    name: options.Name = None,
    precision: options.Precision = None,
    compiled: options.Compile = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Measure every image at every exit (Step B) and print the digest of the tables.

    Finished parts survive a kill; the same command resumes. Processes of torchrun share the parts; with --shard, runs
    started apart on one store do. A shard that leaves work to others prints nothing and exits with 0.
    """
    mine = _read_shard(shard, os.environ)
    opened = open_store(store)
    with make_runtime(device, threads) as runtime:
        inputs = {"parent": resolve_input(opened, "parent", parent, runtime.log)}
        resolved = resolve(
            DeriveConfig,
            preset=lambda settings: parent_dataset_preset(opened, inputs["parent"], settings),
            config_path=config,
            flags={
                "dataset.name": dataset,
                "dataset.root": None if data_root is None else str(data_root),
                "splits": None if splits is None else splits.split(","),
                "mirror": mirror or None,
                "batch_size": batch_size,
                "precision": precision,
                "execution.compile": compiled or None,
                "execution.part_images": part_images,
            },
            assignments=assignments,
        )
        plan = plan_on_data(
            lambda draw: stage.plan(resolved, inputs, opened, runtime, draw=draw),
            runtime,
            stage.STAGE,
            resolved,
            inputs,
            dry_run=dry_run,
            as_json=as_json,
        )
        if plan is None:
            return
        if mine.count > 1 and not dry_run:
            runtime.log.info("Shard %d of %d, counted from 0.", mine.index, mine.count)
            if not stage.take_shard(plan, opened, runtime, mine, force=force):
                if as_json:
                    emit_result(runtime.world, {"digest": None, "shard": [mine.index, mine.count]}, as_json=True)
                return
        run_stage(plan, opened, runtime, force=force, names=name, dry_run=dry_run, as_json=as_json)


def _read_shard(option: str | None, environment: Mapping[str, str]) -> Shard:
    """Read ``I/N``, else the task of a Slurm job array, else take everything."""
    if option is not None:
        match = re.fullmatch(r"(\d+)/(\d+)", option)
        index, count = (int(match[1]), int(match[2])) if match else (1, 0)
        if index >= count:
            raise UsageError(f"--shard is {option!r}, expected I/N with I from 0 to N - 1, such as 0/4.")
        return Shard(index, count)
    if "SLURM_ARRAY_TASK_ID" not in environment or "SLURM_ARRAY_TASK_COUNT" not in environment:
        return Shard()
    try:
        task, count, first, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{key}", default))
            for key, default in (("ID", ""), ("COUNT", ""), ("MIN", "0"), ("STEP", "1"))
        )
    except ValueError:
        task, count, first, step = 0, 0, 0, 1
    index, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= index < count:
        raise UsageError(
            "The variables SLURM_ARRAY_TASK_ID, _COUNT, _MIN and _STEP do not describe an array of evenly spaced "
            "tasks. Say which shard this is with --shard I/N, or --shard 0/1 for all of the work."
        )
    return Shard(index, count)
