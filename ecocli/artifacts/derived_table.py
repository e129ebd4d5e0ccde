"""The derived table: per image the quality at every exit, the counts behind it, the gate's features and the costs.

Axes: N images, E exits, K classes, D features.
One Parquet file per split, one row per image in the data set's order. Counts are sparse: the lists ``count_*`` of a row
run in parallel, one entry per exit and class that occurs; the sums over images are exact, so the data set's panoptic
quality of any assignment of exits is arithmetic on the table (``ecocli.metrics.assignment``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float16, Float64

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.count_columns import PANOPTIC_DOCS, flat_values, panoptic_columns, read_counts
from ecocli.artifacts.detection_columns import DETECTION_DOCS, RESULT_NAMES, read_detections
from ecocli.artifacts.manifest import DerivedManifest
from ecocli.artifacts.tables import ColumnDoc, column_names, document_columns, read_table
from ecocli.errors import ArtifactError
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.detection import DetectionTable

FEATURE_PREFIX = "feature_"
# Of each task the columns of results and their reader; the first column, the image's quality, tells whose they are.
_RESULTS: tuple[tuple[tuple[str, ...], Callable[[pa.Table, int], CountTable | DetectionTable]], ...] = (
    (tuple(PANOPTIC_DOCS), read_counts),
    (("quality", *RESULT_NAMES), read_detections),
)

_DOCS = {
    "image_id": ColumnDoc("id of the image, as text"),
    "file_name": ColumnDoc("image file, relative to the image folder of the split"),
    "seen": ColumnDoc("whether the parent was trained on the image; null where its manifest does not say"),
    "height": ColumnDoc("height of the image on disk", "px"),
    "width": ColumnDoc("width of the image on disk", "px"),
    "padded_height": ColumnDoc("height of the network's input", "px"),
    "padded_width": ColumnDoc("width of the network's input", "px"),
    "gflops": ColumnDoc("whole cost of the image at each exit, one multiply-add counted once", "GFLOPs"),
    "encoder_gflops": ColumnDoc("the pixel decoder's share of it at each exit", "GFLOPs"),
}
_FEATURE_DOCS = {
    "res5": ColumnDoc("mean of the backbone's res5 map over the image without padding"),
    "projected": ColumnDoc("mean of the projected tokens of the same level over the image without padding"),
    "tokens": ColumnDoc(
        "mean, then maximum, of each level of the projected tokens, coarsest first, over the image without padding"
    ),
}


@dataclass(frozen=True, eq=False)
class DerivedRecord:
    """What the table keeps of one image.

    Attributes:
        image_id: Id as text.
        file_name: Image file, relative to the image folder.
        seen: Whether the parent was trained on it; None where it is not known.
        size: Height and width on disk, in pixels.
        padded_size: Height and width of the network's input, in pixels.
        counts: What its task keeps of it at each exit: panoptic counts, or detections.
        gflops: Whole cost at each exit, in GFLOPs.
        encoder_gflops: The pixel decoder's share of it.
    """

    image_id: str
    file_name: str
    seen: bool | None
    size: tuple[int, int]
    padded_size: tuple[int, int]
    counts: tuple[Any, ...]
    features: Mapping[str, Float16[np.ndarray, " _d"]]
    gflops: tuple[float, ...]
    encoder_gflops: tuple[float, ...]


def build_table(
    records: Sequence[DerivedRecord],
    result_columns: Callable[[Sequence[Sequence[Any]]], dict[str, Any]] | None = None,
) -> pa.Table:
    """Write records as a documented Arrow table, one row each, in the given order.

    Args:
        records: At least one; all with the same exits and features.
        result_columns: From the results of each image at its exits to columns; ``panoptic_columns`` by default.
    """
    result_columns = panoptic_columns if result_columns is None else result_columns
    columns: dict[str, Any] = {
        "image_id": pa.array([record.image_id for record in records], pa.string()),
        "file_name": pa.array([record.file_name for record in records], pa.string()),
        "seen": pa.array([record.seen for record in records], pa.bool_()),
        "height": pa.array([record.size[0] for record in records], pa.int32()),
        "width": pa.array([record.size[1] for record in records], pa.int32()),
        "padded_height": pa.array([record.padded_size[0] for record in records], pa.int32()),
        "padded_width": pa.array([record.padded_size[1] for record in records], pa.int32()),
        **result_columns([record.counts for record in records]),
    }
    for name, example in records[0].features.items():
        values = np.concatenate([record.features[name] for record in records])
        columns[FEATURE_PREFIX + name] = pa.FixedSizeListArray.from_arrays(pa.array(values), len(example))
    columns["gflops"] = pa.array([record.gflops for record in records], pa.list_(pa.float64()))
    columns["encoder_gflops"] = pa.array([record.encoder_gflops for record in records], pa.list_(pa.float64()))
    table = pa.table(columns)
    features = {FEATURE_PREFIX + name: _FEATURE_DOCS.get(name, ColumnDoc(name)) for name in records[0].features}
    docs = {**_DOCS, **PANOPTIC_DOCS, **DETECTION_DOCS, **features}
    return document_columns(table, {name: docs[name] for name in columns})


@dataclass(frozen=True, eq=False)
class DerivedTable:
    """One split of the derived table, in memory.

    Attributes:
        quality: Quality of each image at each exit, NaN where undefined; PQ or AP in 0..1, or minus a loss over its
            mean.
        features: The one feature asked for.
        gflops: Whole cost of each image at each exit.
        encoder_gflops: The pixel decoder's share of it.
        seen: Which images the parent is known to be trained on.
        unseen: Which it is known not to be trained on.
        mirror: The same of each image's mirror image; None where these were not measured.
    """

    quality: Float64[np.ndarray, "N E"]
    counts: CountTable | DetectionTable
    features: Float16[np.ndarray, "N D"]
    gflops: Float64[np.ndarray, "N E"]
    encoder_gflops: Float64[np.ndarray, "N E"]
    seen: Bool[np.ndarray, " N"]
    unseen: Bool[np.ndarray, " N"]
    mirror: "DerivedTable | None" = None


def read_split(derived: Artifact[DerivedManifest], split: str, feature: str) -> DerivedTable:
    """Read a split with its mirror images, where they were measured; see ``read_derived``.

    A loss is divided by its mean over the split.
    """
    manifest = derived.manifest

    def read(name: str) -> DerivedTable:
        depths, rows = manifest.exit_depths, manifest.rows[split]
        reader = partial(read_derived, split=name, feature=feature, exit_depths=depths, rows=rows)
        table = derived.read(f"{name}.parquet", reader)
        found, expected = table.features.shape[1], manifest.feature_sizes[feature]
        if found != expected:
            raise _fault(name, f"its feature {feature} has {found} numbers, expected {expected} as its manifest says")
        return (
            replace(table, quality=table.quality / -np.nanmean(table.quality)) if manifest.quality == "loss" else table
        )

    table = read(split)
    if not manifest.mirrored:
        return table
    ids, mirrored = (
        read_table(derived.path_of(f"{name}.parquet"), ["image_id"])["image_id"] for name in (split, f"{split}-mirror")
    )
    if ids.to_pylist() != mirrored.to_pylist():
        raise _fault(f"{split}-mirror", f"its rows are not the images of {split} in their order")
    return replace(table, mirror=read(f"{split}-mirror"))


def read_derived(path: Path, *, split: str, feature: str, exit_depths: Sequence[int], rows: int) -> DerivedTable:
    """Read one split and make sure that it is what its manifest promises.

    Args:
        exit_depths: The exits of the manifest.
        rows: Number of images of the manifest.

    Raises:
        ArtifactError: Columns or rows are missing, an image occurs twice, exits or classes are not the parent's, or
            a value is NaN or infinite.
    """
    columns = column_names(path)
    results, read_results = next((kind for kind in _RESULTS if kind[0][0] in columns), _RESULTS[0])
    named = ["image_id", *results, FEATURE_PREFIX + feature, "gflops", "encoder_gflops"]
    # Tables made before there was this column do not say.
    named += ["seen"] if "seen" in columns else []
    table = read_table(path, named).combine_chunks()
    if table.num_rows != rows or rows == 0:
        raise _fault(split, f"it has {table.num_rows} rows, expected {rows or 'some'} as its manifest says")
    if pc.count_distinct(table["image_id"]).as_py() != rows:
        raise _fault(split, f"its {rows} rows name only {pc.count_distinct(table['image_id']).as_py()} images")
    E = len(exit_depths)
    features = flat_values(table, FEATURE_PREFIX + feature).to_numpy(zero_copy_only=False).reshape(rows, -1)
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise _fault(split, f"feature {column} of row {row} is {features[row, column]}, expected a finite number")
    costs = {name: _per_exit(table, name, split, exit_depths) for name in ("gflops", "encoder_gflops")}
    for name, values in costs.items():
        if not np.isfinite(values).all():
            raise _fault(split, f"its column {name} has a value that is no finite number")
    try:
        counts = read_results(table, E)
    except ValueError as error:
        raise _fault(split, str(error)) from error
    known = table["seen"].to_pylist() if "seen" in columns else [None] * rows
    return DerivedTable(
        quality=_per_exit(table, results[0], split, exit_depths),
        counts=counts,
        features=features,
        gflops=costs["gflops"],
        encoder_gflops=costs["encoder_gflops"],
        seen=np.array([value is True for value in known]),
        unseen=np.array([value is False for value in known]),
    )


def read_splits(derived: Artifact[DerivedManifest], splits: Sequence[str], feature: str) -> dict[str, DerivedTable]:
    """Read those of the splits that there are; see ``read_split``."""
    return {
        split: read_split(derived, split, feature)
        for split in dict.fromkeys(splits)
        if split in derived.manifest.splits
    }


def _per_exit(table: pa.Table, name: str, split: str, exit_depths: Sequence[int]) -> Float64[np.ndarray, "N E"]:
    """Read a list column with one value per exit; null becomes NaN, a stored NaN is a fault."""
    lengths = pc.list_value_length(table[name])
    lengths = lengths.to_numpy()
    strange = lengths[lengths != len(exit_depths)]
    if strange.size:
        raise _fault(
            split,
            f"its column {name} has rows of {int(strange[0])} exits, expected {len(exit_depths)} (depths "
            f"{', '.join(map(str, exit_depths))})",
        )
    flat = flat_values(table, name)
    if pc.any(pc.is_nan(flat)).as_py():
        raise _fault(split, f"its column {name} holds NaN; expected a number, or null where there is nothing to score")
    values: Float64[np.ndarray, " _ne"] = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    return values.reshape(-1, len(exit_depths))


def _fault(split: str, what: str) -> ArtifactError:
    return ArtifactError(f"The derived table of split {split!r} is damaged: {what}. Derive it again with --force.")
