"""``eco data``: generate the drawn ``shapes``; convert what a drawing tool exported; check before hours of training.

stdout carries a table, a TOML file or one JSON object. No command loads torch or needs a GPU.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ecocli.commands import options
from ecocli.commands._sections import SectionedCommand
from ecocli.commands.common import emit_result, environment_data_root, resolve
from ecocli.commands.options import option
from ecocli.commands.tables import make_list
from ecocli.config.dataset import DATASET_PRESETS, DatasetConfig
from ecocli.config.derive import TaskName
from ecocli.errors import DataError, UsageError
from ecocli.runtime.distributed import World
from ecocli.runtime.files import user_path
from ecocli.runtime.logging import configure_logging
from ecocli.runtime.progress import Progress

if TYPE_CHECKING:
    from ecocli.data.checking import SplitReport
    from ecocli.data.images import ImageDataset
    from ecocli.data.panoptic import PanopticDataset

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

RootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        "--root",
        metavar="DIR",
        help="Folder of the data sets.  [default: $ECO_DATASETS, $DETECTRON2_DATASETS, else ./datasets]",
    ),
]

_PREVIEW_IMAGES = 24
_FAST_SAMPLE = 200
_SHOWN_FAULTS = 20


def _resolve(
    name: str | None,
    root: Path | None,
    config_path: Path | None,
    assignments: list[str] | None,
    **flags: object,
) -> DatasetConfig:
    settings = {key.replace("__", "."): value for key, value in flags.items()}
    return resolve(
        DatasetConfig,
        preset={"root": environment_data_root()},
        config_path=config_path,
        flags={"name": name, "root": None if root is None else str(root), **settings},
        assignments=assignments,
    )


@app.command("shapes", cls=SectionedCommand)
def shapes(
    root: RootOption = None,
    train: Annotated[int | None, option("--train", "N", "Training images.  [default: 3000]", min=1)] = None,
    val: Annotated[int | None, option("--val", "N", "Validation images.  [default: 2048]", min=1)] = None,
    seed: Annotated[int | None, option("--seed", "N", "Seed of all scenes.  [default: 0]", min=0)] = None,
    size: Annotated[
        int | None, option("--size", "PX", "Height and width in pixels.  [default: 128]", min=48, max=1024)
    ] = None,
    preview: Annotated[
        Path | None, option("--preview", "FILE.png", "Write a sheet of validation scenes with their truth.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace generated shapes of other parameters.")] = False,
    config: options.Config = None,
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Generate the drawn data set, unless it is there; every other command does this by itself."""
    from ecocli.data.datasets import data_root, open_dataset
    from ecocli.data.shapes.files import ensure_shapes, stored_parameters

    settings = _resolve(
        "shapes",
        root,
        config,
        assignments,
        shapes__train=train,
        shapes__val=val,
        shapes__seed=seed,
        shapes__scenes__size=size,
    )
    wanted = settings.drawn
    there = stored_parameters(data_root(settings)) == wanted
    with Progress(not there).task("drawing shapes", total=wanted.train + wanted.val, unit="image") as task:
        folder = ensure_shapes(data_root(settings), wanted, replace=force, advance=task.advance)
    splits = [open_dataset(settings, split) for split in ("train", "val")]
    if preview is not None:
        _write_preview(splits[1], preview)
    table = make_list(
        "split",
        "images",
        "size",
        "segments",
        "per image",
        "crowds",
        right=["images", "size", "segments", "per image", "crowds"],
    )
    rows = []
    for dataset in splits:
        segments = [segment for record in dataset.records for segment in record.segments]
        row = {
            "split": dataset.split,
            "images": len(dataset),
            "segments": len(segments),
            "crowds": sum(segment.is_crowd for segment in segments),
            "fingerprint": dataset.fingerprint,
        }
        rows.append(row)
        size_px = f"{wanted.scenes.size} x {wanted.scenes.size}"
        mean = f"{len(segments) / len(dataset):.1f}"
        table.add_row(dataset.split, f"{len(dataset):,}", size_px, f"{len(segments):,}", mean, str(row["crowds"]))
    data = {
        "folder": str(folder),
        "parameters": wanted.model_dump(mode="json"),
        "splits": rows,
        "preview": None if preview is None else str(preview),
    }
    emit_result(World(), data, text=f"{folder}", table=table, as_json=as_json)


def _write_preview(dataset: "PanopticDataset", path: Path) -> None:
    from ecocli.data.preview import contact_sheet

    # Few segments first: the sheet then runs from easy to hard.
    first = range(min(_PREVIEW_IMAGES, len(dataset)))
    indices = sorted(first, key=lambda index: len(dataset.records[index].segments))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(dataset, indices).save(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"The preview cannot be written to {path} ({error}). Expected a path that ends in .png or .jpg in a "
            "folder that can be written."
        ) from error


@app.command("convert", cls=SectionedCommand)
def convert(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="Folder that a drawing tool exported, extracted.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; its data.toml names the data set.")],
    images: Annotated[Path | None, option("--images", "DIR", "Folder of the photos, if the export lacks them.")] = None,
    names: Annotated[
        str | None,
        option(
            "--names", "VALUE=NAME,..", "Names of the values of class masks: 1=road,2=car, or by colour: ff0000=car."
        ),
    ] = None,
    things: Annotated[
        str | None, option("--things", "NAME,..", "Classes whose objects are counted.  [default: all drawn as objects]")
    ] = None,
    stuff: Annotated[str | None, option("--stuff", "NAME,..", "Classes that are not counted, such as sky.")] = None,
    val: Annotated[float, option("--val", "RATIO", "Share of the images for the split val.", min=0.0, max=0.9)] = 0.2,
    as_json: options.Json = False,
) -> None:
    """Convert polygons or masks of a drawing tool to COCO's panoptic format; photos stay where they are.

    Reads CVAT's, Label Studio's and FiftyOne's COCO exports, and folders of photos and class masks.

    Example: eco data convert export my-data --stuff sky,road
    """
    from ecocli.data.exports.convert import convert as write
    from ecocli.data.exports.layouts import LAYOUTS, find_layout

    if things is not None and stuff is not None:
        raise UsageError("--things and --stuff say the same in two ways: all others are the other. Give one of them.")
    export = find_layout(user_path(folder), None if images is None else user_path(images), _pairs(names))
    if export is None:
        raise DataError(f"{folder} holds nothing that is known. Known are {LAYOUTS}.")
    if isinstance(export, list):
        raise UsageError(f"{folder} is in COCO's panoptic format already: eco data check {folder} > my.toml")
    total = sum(len(names) for names in export.splits().values())
    with Progress().task("converting", total=total, unit="image") as task:
        made = write(
            export,
            user_path(out),
            out.resolve().name,
            things=None if things is None else things.split(","),
            stuff=() if stuff is None else stuff.split(","),
            val_ratio=val,
            advance=task.advance,
        )
    log = configure_logging(World())
    if made.hidden:
        log.warning("%d regions are covered by others and left out.", made.hidden)
    table = make_list("class", "kind", "segments", right=["segments"])
    for name, count in made.segments.items():
        table.add_row(name, "thing" if name in made.things else "stuff", f"{count:,}")
    log.info("Next: eco data check %s", made.toml)
    data = {**asdict(made), "toml": str(made.toml)}
    emit_result(World(), data, text=str(made.toml), table=table, as_json=as_json)


def _pairs(text: str | None) -> dict[str, str]:
    """Read VALUE=NAME, separated by commas."""
    pairs = [item.partition("=") for item in text.split(",")] if text else []
    if not all(value and name for value, _, name in pairs):
        raise UsageError(f"--names is {text!r}, expected pairs such as 1=road,2=car.")
    return {value.strip().lstrip("#"): name.strip() for value, _, name in pairs}


def _propose(folder: Path, as_json: bool) -> None:
    """Print the TOML file of a folder in a known layout."""
    from ecocli.data.exports.convert import describe
    from ecocli.data.exports.layouts import LAYOUTS, find_layout

    layout = find_layout(folder)
    if layout is None:
        raise DataError(f"{folder} holds no data set that is known. Known are {LAYOUTS}.")
    if not isinstance(layout, list):
        what = "objects as polygons or run lengths" if hasattr(layout, "files") else "photos and class masks"
        raise DataError(
            f"{folder} holds {what}, not COCO's panoptic format. Convert it, then check what was made: eco data "
            f"convert {folder} my-data && eco data check my-data/data.toml"
        )
    text = describe(folder.resolve().name, layout, Path())
    configure_logging(World()).info("Save this as a .toml file here and check it: its paths start at its folder.")
    emit_result(World(), {"dataset": str(folder), "toml": text}, text=text.rstrip(), as_json=as_json)


@app.command("check", cls=SectionedCommand)
def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="shapes, coco, cityscapes, or the path of a .toml file. For a folder, print the .toml file it needs.",
        ),
    ],
    root: RootOption = None,
    split: Annotated[list[str] | None, option("--split", "NAME", "Check only this split; may be repeated.")] = None,
    task: Annotated[
        str | None, option("--task", "panoptic|detection", "What to check it for.  [default: what its annotations are]")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help=f"Check only {_FAST_SAMPLE} images of every split, spread evenly.")
    ] = False,
    config: options.Config = None,
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Check every file, id, area and box of a data set; exits with 3 when anything is wrong."""
    if name not in DATASET_PRESETS and user_path(name).is_dir():
        if not (user_path(name) / "data.toml").is_file():
            _propose(user_path(name), as_json)
            return
        name = str(user_path(name) / "data.toml")
    from ecocli.data.checking import Fault, SplitReport, describe_difference
    from ecocli.data.datasets import data_root, split_names
    from ecocli.data.detection import has_panoptic
    from ecocli.data.shapes.files import stored_parameters
    from ecocli.data.workers import usable_cores
    from ecocli.tasks.registry import task_named

    if task not in (None, "panoptic", "detection"):
        raise UsageError(f"--task is {task!r}, expected panoptic or detection.")
    settings = _resolve(name, root, config, assignments)
    names_of_splits = split or split_names(settings)
    usual: TaskName = "panoptic" if all(has_panoptic(settings, one) for one in names_of_splits) else "detection"
    checked = task_named(usual if task is None else cast("TaskName", task))
    if settings.name == "shapes":
        found = stored_parameters(data_root(settings))
        if found is None:
            raise DataError(
                f"There are no generated shapes of this version in {data_root(settings)}. Make them with "
                "`eco data shapes`, or name their folder with --data-root or ECO_DATASETS."
            )
        # Whatever was generated is checked; nothing is generated here.
        settings = settings.model_copy(update={"shapes": found})
    progress = Progress()
    reports: list[SplitReport] = []
    names: dict[int, str] = {}
    first: ImageDataset | None = None
    for split_name in names_of_splits:
        try:
            dataset = checked.open(settings, split_name, check_files=False)
        except DataError as error:
            reports.append(SplitReport(split_name, faults=[Fault(split_name, "", str(error))]))
            continue
        names = {category.id: category.name for category in dataset.categories}
        first = first or dataset
        sample = _FAST_SAMPLE if fast else None
        total = len(dataset) if sample is None else min(sample, len(dataset))
        with progress.task(f"checking {dataset.name} {split_name}", total=total, unit="image") as shown:
            reports.append(checked.check(dataset, sample=sample, processes=usable_cores(), advance=shown.advance))
        if difference := describe_difference(first, dataset):
            reports[-1].faults.insert(0, Fault(split_name, "", difference))
    log = configure_logging(World())
    for report in reports:
        for note in report.notes:
            log.warning("%s: %s.", report.split, note)
    _print_check(name, reports, names, checked.annotated_name, as_json)
    count = sum(len(report.faults) for report in reports)
    if count:
        raise DataError(
            f"The data set {name} has {count} {'fault' if count == 1 else 'faults'}, listed on stdout. Extract the "
            "named archives again, or correct the annotations, and check once more."
        )


def _print_check(name: str, reports: "list[SplitReport]", names: dict[int, str], annotated: str, as_json: bool) -> None:
    faults = [fault for report in reports for fault in report.faults]
    lines = [f"{fault.split}: {fault.text}" for fault in faults[:_SHOWN_FAULTS]]
    if len(faults) > _SHOWN_FAULTS:
        lines.append(f"... and {len(faults) - _SHOWN_FAULTS} more faults")
    table = make_list(
        "split",
        "images",
        "checked",
        annotated,
        "crowds",
        "unlabelled",
        "faults",
        right=["images", "checked", annotated, "crowds", "unlabelled", "faults"],
    )
    splits = []
    for report in reports:
        table.add_row(
            report.split,
            f"{report.images:,}",
            f"{report.checked:,}",
            f"{report.segments:,}",
            f"{report.crowds:,}",
            f"{100 * report.void_ratio:.1f} %" if annotated == "segments" else "-",
            f"{len(report.faults):,}",
        )
        row = asdict(report)
        row["category_counts"] = {
            names.get(id_, str(id_)): count for id_, count in sorted(report.category_counts.items())
        }
        splits.append(row)
    data = {"dataset": name, "ok": not faults, "splits": splits}
    emit_result(World(), data, text="\n".join(lines) if lines else None, table=table, as_json=as_json)
