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
    emit_result,
    make_runtime,
    open_store,
    print_dry_run,
    resolve,
)


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
    from ecocli.config.import_weights import ImportWeightsConfig
    from ecocli.stages import import_weights as stage

    opened = open_store(store)
    with make_runtime("cpu") as runtime:
        resolved = resolve(
            ImportWeightsConfig,
            config_path=config,
            flags={"source": str(source), "arch": arch, "categories": categories},
            assignments=assignments,
        )
        if dry_run:
            action, request, _ = stage.plan(resolved, {})
            print_dry_run(
                runtime.world,
                stage.STAGE,
                request,
                {},
                action_digest=action.digest,
                reused=None if force else opened.find_action(action.digest),
                as_json=as_json,
            )
            return
        artifact = stage.run(resolved, {}, opened, runtime, force=force, names=name or ())
        manifest = artifact.manifest.model_dump(mode="json")
        emit_result(
            runtime.world,
            {"digest": artifact.digest, "manifest": manifest},
            text=artifact.digest,
            as_json=as_json,
        )
