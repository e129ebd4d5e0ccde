"""Parquet tables of an evaluation: one row per image, and one per row of the scorecard and class.

Axes: N images, E exits, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from ecocli.artifacts.count_columns import COUNT_DOCS, count_columns
from ecocli.data.images import ImageDataset
from ecocli.data.panoptic import PanopticDataset
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.panoptic_quality import PanopticQuality
from ecocli.metrics.results import ResultTable
from ecocli.metrics.scorecard import ScoreRow, image_qualities
from ecocli.scoring.assemble import FurtherMetrics, count_table
from ecocli.scoring.scores import PartScores

IMAGE_COLUMNS: Mapping[str, tuple[str, str]] = {
    "image_id": ("id of the image, as text", ""),
    "file_name": ("image file, relative to the split's folder", ""),
    "height": ("height on disk", "px"),
    "width": ("width on disk", "px"),
    "gflops": ("cost of this image at each exit, one multiply-add counted once", "GFLOPs"),
    "encoder_gflops": ("the pixel decoder's share of it", "GFLOPs"),
    "oracle_depth": ("shallowest exit of best quality", "encoder layers run"),
    "gate_depth": ("exit the gate chose; null without a gate", "encoder layers run"),
}
"""Meaning and unit of the columns of the image table that every task has."""

PANOPTIC_COLUMNS: Mapping[str, tuple[str, str]] = {
    "pq": ("PQ of this image at each exit; null where there is nothing to score", "ratio 0..1"),
    **{name: (doc.meaning, doc.unit) for name, doc in COUNT_DOCS.items()},
    "gate_pq": ("PQ of this image at the gate's exit, as run", "ratio 0..1"),
}
"""Those of a segmentation."""

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
    dataset: ImageDataset,
    table: ExitTable[ResultTable],
    gate_depths: Int64[np.ndarray, " N"] | None,
    results: Mapping[str, Any],
) -> pa.Table:
    """Build the table of images, in the order of the data set.

    Args:
        gate_depths: What the gate chose; None without one.
        results: The task's own columns.
    """
    records = list(dataset.records)
    depths = np.array(table.exit_depths, np.int32)
    chosen = [None] * len(records) if gate_depths is None else gate_depths.tolist()
    lists = pa.list_(pa.float64())
    return pa.table(
        {
            "image_id": pa.array([record.image_id for record in records], pa.string()),
            "file_name": pa.array([record.file_name for record in records], pa.string()),
            "height": pa.array([record.height for record in records], pa.int32()),
            "width": pa.array([record.width for record in records], pa.int32()),
            "gflops": pa.array(table.gflops.tolist(), lists),
            "encoder_gflops": pa.array(table.encoder_gflops.tolist(), lists),
            "oracle_depth": pa.array(depths[table.oracle], pa.int32()),
            "gate_depth": pa.array(chosen, pa.int32()),
            **results,
        }
    )


def panoptic_result_columns(part: PartScores, counts: CountTable, *, has_gate: bool) -> dict[str, Any]:
    """Write counts and PQ at every exit, and the gate's PQ, as columns."""
    gate_pq = image_qualities(count_table(part.counts, (counts.num_exits,), counts.num_images, counts.num_classes))
    return {
        "pq": quality_column(image_qualities(counts)),
        **count_columns(counts),
        "gate_pq": gate_column(gate_pq[:, 0] if has_gate else None, counts.num_images),
    }


def quality_column(quality: Float64[np.ndarray, "N E"]) -> Any:
    """Write the quality of images at their exits; NaN becomes null."""
    return pa.array([_with_null(row) for row in quality], pa.list_(pa.float64()))


def gate_column(quality: Float64[np.ndarray, " N"] | None, images: int) -> Any:
    """Write the quality of images at the gate's exits; null without a gate."""
    return pa.array([None] * images if quality is None else _with_null(quality), pa.float64())


def class_table(
    dataset: PanopticDataset, rows: Sequence[ScoreRow[PanopticQuality]], metrics: Mapping[str, FurtherMetrics]
) -> pa.Table:
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


def read_exit_table(
    images: pa.Table, exit_depths: Sequence[int], counts: ResultTable, quality_name: str
) -> ExitTable[ResultTable]:
    """Read results and costs at every exit back out of a table of images, around results read already."""
    quality, gflops, encoder = (
        np.array(images[name].to_pylist(), np.float64) for name in (quality_name, "gflops", "encoder_gflops")
    )
    return ExitTable(tuple(exit_depths), counts, quality, gflops, encoder)


def _with_null(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]
