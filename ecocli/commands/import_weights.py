"""``eco import``: takes a published Mask2Former checkpoint in as a parent; prints the parent's digest."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ecocli.artifacts.action import execute
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import ParentManifest
from ecocli.commands import options
from ecocli.commands.common import Shown, make_runtime, open_store, resolve, run_stage, show_digest
from ecocli.commands.options import option
from ecocli.config.import_weights import ImportWeightsConfig
from ecocli.stages import import_weights as stage


def import_weights(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE_OR_FOLDER",
            help="A .pkl, .pth or .safetensors of a whole model, or its Hugging Face folder.",
        ),
    ],
    arch: Annotated[
        str | None, option("--arch", "NAME", "Preset the checkpoint must be.  [default: what it is]")
    ] = None,
    categories: Annotated[
        str | None,
        option(
            "--categories",
            "NAME|FILE.json",
            "coco, cityscapes, ade20k or mapillary, -things for theirs alone, or a panoptic annotation file.  "
            "[default: by the number of classes]",
        ),
    ] = None,
    store: options.Store = None,
    config: options.Config = None,
    assignments: options.Set = None,
    name: options.Name = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Import published weights of Mask2Former, MaskFormer or DETR as a parent with one exit, at full depth.

    A checkpoint of ECO-M2F becomes a parent with its exits, and a gate of the name "gate".

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

        def show(parent: Artifact[ParentManifest]) -> Shown:
            shown = show_digest(parent)
            gate = stage.plan_gate(plan, parent, runtime)
            if gate is None:
                return shown
            made = execute(gate, opened, runtime, force=force)
            runtime.log.info("gate %s", made.digest)
            return replace(shown, data={**shown.data, "gate": made.digest})

        run_stage(plan, opened, runtime, force=force, names=name, dry_run=dry_run, as_json=as_json, show=show)
