"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Any

import typer


def option(flag: str, metavar: str, text: str, **further: Any) -> Any:
    """An option with a value: its flag, what stands for the value, its line of help, and others such as ``min``."""
    return typer.Option(flag, metavar=metavar, help=text, **further)


def _check_names(names: list[str] | None) -> list[str] | None:
    """Refuse what cannot be a name before anything is computed."""
    from ecocli.artifacts.names import check_name

    for name in names or ():
        check_name(name)
    return names


Store = Annotated[Path | None, option("--store", "DIR", "Artifact store.  [default: $ECO_STORE, else .eco]")]
Config = Annotated[Path | None, option("--config", "FILE.toml", "Settings that override the preset's.")]
Set = Annotated[list[str] | None, option("--set", "KEY=VALUE", "Override one setting; may be repeated, applied last.")]
Name = Annotated[
    list[str] | None,
    option("--name", "NAME", "Give the result this name too; may be repeated.", callback=_check_names),
]
Force = Annotated[bool, typer.Option("--force", help="Run again even if the store has the result.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the settings and inputs, and what would be reused; then stop.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the full result as one JSON object.")]
Precision = Annotated[
    str | None, option("--precision", "float32|bfloat16", "Type of the network's products.  [default: float32]")
]
Exported = Annotated[
    Path | None, option("--exported", "DIR", "Run the graphs that `eco export` wrote, with their gate.")
]
Engine = Annotated[
    str | None,
    option(
        "--engine", "torch|onnxruntime|openvino", "What computes.  [default: torch, for graphs that of their format]"
    ),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Let torch compile the backbone; every new image size compiles anew.")
]
Seed = Annotated[int | None, option("--seed", "N", "Seed of all random numbers.  [default: 0]", min=0)]
Device = Annotated[str, option("--device", "auto|cpu|cuda", "Where to compute; auto takes a GPU if there is one.")]
Threads = Annotated[
    int | None, option("--threads", "N", "CPU threads.  [default: $OMP_NUM_THREADS, else all usable cores]", min=1)
]
DataRoot = Annotated[
    Path | None,
    option("--data-root", "DIR", "Folder of the data sets.  [default: $ECO_DATASETS, $DETECTRON2_DATASETS]"),
]

Dataset = Annotated[
    str | None, option("--dataset", "NAME", "shapes, coco, cityscapes, or a .toml file.  [default: the parent's]")
]
ImagesPerBatch = Annotated[int | None, option("--batch-size", "N", "Images per batch.  [default: 4]", min=1)]
Price = Annotated[
    float | None, option("--beta", "B", "Price of compute, for a gate that predicts quality.  [default: as fitted]")
]

# Of Step C and its sweeps.
Recipe = Annotated[
    str | None,
    option(
        "--recipe",
        "contents|paper",
        "Settings by name, which options override: what measured best, or the paper's.  [default: contents]",
    ),
]
Objective = Annotated[
    str | None,
    option(
        "--objective",
        "image-pq|dataset-pq",
        "Raise the images' own PQ, as in the paper, or the data set's.  [default: the recipe's]",
    ),
]
Loss = Annotated[
    str | None, option("--loss", "hard-ce|u-ce|soft-ce|soft-mse", "Loss of the class head.  [default: the recipe's]")
]
Cost = Annotated[str | None, option("--cost", "depth|gflops|ms", "What beta is a price of.  [default: depth]")]
Feature = Annotated[
    str | None, option("--feature", "res5|projected|tokens", "What the gate reads.  [default: the recipe's]")
]
Derived = Annotated[str | None, option("--derived", "DERIVED", "Tables to fit on.  [default: the latest]")]
Profile = Annotated[str | None, option("--profile", "PROFILE", "What eco profile or eco eval made, to take ms from.")]
ExitMs = Annotated[str | None, option("--exit-ms", "M,M,..", "Milliseconds of each of the parent's exits instead.")]
