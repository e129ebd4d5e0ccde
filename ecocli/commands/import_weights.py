"""``eco import``: takes a published Mask2Former checkpoint in as a parent; prints the parent's digest."""

from pathlib import Path
from typing import Annotated

import typer

from ecocli.commands.common import (
    ConfigOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    SetOption,
    StoreOption,
    make_runtime,
    open_store,
    resolve,
    run_stage,
)
from ecocli.config.import_weights import ImportWeightsConfig
from ecocli.stages import import_weights as stage


def import_weights(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_FOLDER",
            help="A .pkl, .pth or .safetensors of Mask2Former, or its Hugging Face folder.",
        ),
    ],
    arch: Annotated[
        str | None,
        typer.Option("--arch", metavar="NAME", help="Preset the checkpoint must be.  [default: what it is]"),
    ] = None,
    categories: Annotated[
        str | None,
        typer.Option(
            "--categories",
            metavar="NAME|FILE.json",
            help="coco, cityscapes, or a panoptic annotation file.  [default: by the number of classes]",
        ),
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    name: NameOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take published Mask2Former weights in as a parent with one exit, at full depth.

    Pickles are read without executing anything in them. Anything unexpected in the file stops the import.
    """
    opened = open_store(store)
    with make_runtime("cpu") as runtime:
        resolved = resolve(
            ImportWeightsConfig,
            config_path=config,
            flags={"source": str(source), "arch": arch, "categories": categories},
            assignments=assignments,
        )
        plan = stage.plan(resolved, {}, opened, runtime)
        run_stage(plan, opened, runtime, force=force, names=name, dry_run=dry_run, as_json=as_json)
