"""Parquet tables of an evaluation: one row per image, and one per row of the scorecard and class.

Axes: N images, E exits, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecocli.data.panoptic import PanopticDataset
from ecocli.metrics.assignment import CountTable, oracle_assignment
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.scorecard import ScoreRow, image_qualities
from ecocli.scoring.assemble import FurtherMetrics, count_table
from ecocli.scoring.scores import PartScores

IMAGE_COLUMNS: Mapping[str, tuple[str, str]] = {
    "image_id": ("id of the image, as text", ""),
    "file_name": ("image file, relative to the split's folder", ""),
    "height": ("height on disk", "px"),
    "width": ("width on disk", "px"),
    "pq": ("PQ of this image at each exit; null where there is nothing to score", "ratio 0..1"),
    "gflops": ("cost of this image at each exit, one multiply-add counted once", "GFLOPs"),
    "encoder_gflops": ("the pixel decoder's share of it", "GFLOPs"),
    "count_exit": ("exit index of each count, from 0", ""),
    "count_class": ("class index of each count, the rank of the category id", ""),
    "count_iou_sum": ("sum of the IoU of matched segments", "ratio"),
    "count_tp": ("matched segments", "segments"),
    "count_fp": ("predicted segments without match", "segments"),
    "count_fn": ("true segments without match", "segments"),
    "oracle_depth": ("shallowest exit with the best PQ", "encoder layers run"),
    "gate_depth": ("exit the gate chose; null without a gate", "encoder layers run"),
    "gate_pq": ("PQ of this image at the gate's exit, as run", "ratio 0..1"),
}
"""Meaning and unit of each column of the image table."""

_COUNTS = ("count_exit", "count_class", "count_iou_sum", "count_tp", "count_fp", "count_fn")

CLASS_COLUMNS: Mapping[str, tuple[str, str]] = {
    "row": ("way of choosing exits: exit D, gate, random, attainable, oracle", ""),
    "category_id": ("id of the category", ""),
    "name": ("name of the category", ""),
    "is_thing": ("whether it is a thing", ""),
    "pq": ("panoptic quality; null where the class does not occur", "ratio 0..1"),
    "sq": ("segmentation quality", "ratio 0..1"),
    "rq": ("recognition quality", "ratio 0..1"),
    "iou": ("IoU of the semantic maps; null where not measured", "ratio 0..1"),
}
"""Meaning and unit of each column of the class table."""


def image_table(
    dataset: PanopticDataset, part: PartScores, table: ExitTable[CountTable], *, has_gate: bool
) -> pa.Table:
    """Build the table of images, in the order of the data set."""
    records = list(dataset.records)
    quality = image_qualities(table.counts)
    depths = np.array(table.exit_depths, np.int32)
    gate_counts = count_table(part.counts, (len(depths),), len(records), table.counts.num_classes)
    gate_pq = image_qualities(gate_counts)[:, 0]
    lists = pa.list_(pa.float64())
    return pa.table(
        {
            "image_id": pa.array([record.image_id for record in records], pa.string()),
            "file_name": pa.array([record.file_name for record in records], pa.string()),
            "height": pa.array([record.height for record in records], pa.int32()),
            "width": pa.array([record.width for record in records], pa.int32()),
            "pq": pa.array([_with_null(row) for row in quality], lists),
            "gflops": pa.array(table.gflops.tolist(), lists),
            "encoder_gflops": pa.array(table.encoder_gflops.tolist(), lists),
            **_count_columns(table.counts),
            "oracle_depth": pa.array(depths[oracle_assignment(quality)], pa.int32()),
            "gate_depth": pa.array(part.gate_depths.tolist() if has_gate else [None] * len(records), pa.int32()),
            "gate_pq": pa.array(_with_null(gate_pq) if has_gate else [None] * len(records), pa.float64()),
        }
    )


def class_table(dataset: PanopticDataset, rows: Sequence[ScoreRow], metrics: Mapping[str, FurtherMetrics]) -> pa.Table:
    """Build the table of classes: every row of the scorecard, class by class."""
    columns: dict[str, list[object]] = {name: [] for name in CLASS_COLUMNS}
    for row in rows:
        semantic = metrics[row.name].semantic
        for index, category in enumerate(dataset.categories):
            quality = row.quality.per_class[index]
            values = (row.name, category.id, category.name, category.is_thing, quality.pq, quality.sq, quality.rq)
            iou = semantic.per_class[index] if semantic is not None else None
            for name, value in zip(CLASS_COLUMNS, (*values, iou), strict=True):
                columns[name].append(value)
    number = pa.float64()
    types = (pa.string(), pa.int32(), pa.string(), pa.bool_(), number, number, number, number)
    return pa.table({name: pa.array(columns[name], kind) for name, kind in zip(CLASS_COLUMNS, types, strict=True)})


def read_exit_table(images: pa.Table, exit_depths: Sequence[int], num_classes: int) -> ExitTable[CountTable]:
    """Read counts and costs at every exit back out of a table of images."""
    lengths = pc.list_value_length(images["count_exit"]).to_numpy()
    entries = [pc.list_flatten(images[name]).to_numpy() for name in _COUNTS]
    counts = CountTable(
        num_images=images.num_rows,
        num_exits=len(exit_depths),
        num_classes=num_classes,
        image=np.repeat(np.arange(images.num_rows, dtype=np.int64), lengths),
        exit_index=entries[0].astype(np.int64),
        class_index=entries[1].astype(np.int64),
        iou_sum=entries[2],
        tp=entries[3],
        fp=entries[4],
        fn=entries[5],
    )
    gflops, encoder_gflops = (np.array(images[name].to_pylist(), np.float64) for name in ("gflops", "encoder_gflops"))
    return ExitTable(tuple(exit_depths), counts, gflops, encoder_gflops)


def _count_columns(counts: CountTable) -> dict[str, Any]:
    offsets: Any = pa.array(np.searchsorted(counts.image, np.arange(counts.num_images + 1)), pa.int32())
    values = (counts.exit_index, counts.class_index, counts.iou_sum, counts.tp, counts.fp, counts.fn)
    kinds: tuple[Any, ...] = (pa.int8(), pa.int16(), pa.float64(), pa.int32(), pa.int32(), pa.int32())
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(value, kind))
        for name, value, kind in zip(_COUNTS, values, kinds, strict=True)
    }


def _with_null(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]
