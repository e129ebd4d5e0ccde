"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Artifact store.  [default: $ECO_STORE, else .eco]"),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="Settings that override the preset's.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated, applied last."),
]
NameOption = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME", help="Give the result this name too; may be repeated."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Run again even if the store has the result.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the settings and inputs, and what would be reused; then stop.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the full result as one JSON object.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", metavar="float32|bfloat16", help="Type of the network's products.  [default: float32]"),
]
ExportedOption = Annotated[
    Path | None,
    typer.Option("--exported", metavar="DIR", help="Run the graphs that `eco export` wrote, with their gate."),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="torch|onnxruntime|openvino",
        help="What computes.  [default: torch, for graphs that of their format]",
    ),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Let torch compile the backbone; every new image size compiles anew.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", min=0, help="Seed of all random numbers.  [default: 0]")
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute; auto takes a GPU if there is one.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="CPU threads.  [default: $OMP_NUM_THREADS, else all usable cores]"
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root", metavar="DIR", help="Folder of the data sets.  [default: $ECO_DATASETS, $DETECTRON2_DATASETS]"
    ),
]

DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset", metavar="NAME", help="shapes, coco, cityscapes, or a .toml file.  [default: the parent's]"
    ),
]
ImagesPerBatchOption = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", min=1, help="Images per batch.  [default: 4]")
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--beta", metavar="B", help="Price of compute, for a gate that predicts quality.  [default: as fitted]"
    ),
]

# Of Step C and its sweeps.
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="contents|paper",
        help="Settings by name, which options override: what measured best, or the paper's.  [default: contents]",
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="image-pq|dataset-pq",
        help="Raise the images' own PQ, as in the paper, or the data set's.  [default: the recipe's]",
    ),
]
LossOption = Annotated[
    str | None,
    typer.Option(
        "--loss", metavar="hard-ce|u-ce|soft-ce|soft-mse", help="Loss of the class head.  [default: the recipe's]"
    ),
]
CostOption = Annotated[
    str | None, typer.Option("--cost", metavar="depth|gflops|ms", help="What beta is a price of.  [default: depth]")
]
FeatureOption = Annotated[
    str | None,
    typer.Option("--feature", metavar="res5|projected|tokens", help="What the gate reads.  [default: the recipe's]"),
]
DerivedOption = Annotated[
    str | None, typer.Option("--derived", metavar="DERIVED", help="Tables to fit on.  [default: the latest]")
]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", metavar="PROFILE", help="What eco profile or eco eval made, to take ms from."),
]
ExitMsOption = Annotated[
    str | None,
    typer.Option("--exit-ms", metavar="M,M,..", help="Milliseconds of each of the parent's exits instead."),
]
