"""Parquet tables of an evaluation: one row per image, and one per row of the scorecard and class.

Axes: N images, E exits, K classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ecocli.data.panoptic import PanopticDataset
from ecocli.inference.assemble import FurtherMetrics, count_table
from ecocli.inference.scores import PartScores
from ecocli.metrics.assignment import oracle_assignment
from ecocli.metrics.scorecard import ExitTable, ScoreRow, image_qualities

IMAGE_COLUMNS: Mapping[str, tuple[str, str]] = {
    "image_id": ("id of the image, as text", ""),
    "file_name": ("image file, relative to the split's folder", ""),
    "height": ("height on disk", "px"),
    "width": ("width on disk", "px"),
    "pq": ("PQ of this image at each exit; null where there is nothing to score", "ratio 0..1"),
    "gflops": ("cost of this image at each exit, one multiply-add counted once", "GFLOPs"),
    "oracle_depth": ("shallowest exit with the best PQ", "encoder layers run"),
    "gate_depth": ("exit the gate chose; null without a gate", "encoder layers run"),
    "gate_pq": ("PQ of this image at the gate's exit, as run", "ratio 0..1"),
}
"""Meaning and unit of each column of the image table."""

CLASS_COLUMNS: Mapping[str, tuple[str, str]] = {
    "row": ("way of choosing exits: exit D, gate, random, oracle", ""),
    "category_id": ("id of the category", ""),
    "name": ("name of the category", ""),
    "is_thing": ("whether it is a thing", ""),
    "pq": ("panoptic quality; null where the class does not occur", "ratio 0..1"),
    "sq": ("segmentation quality", "ratio 0..1"),
    "rq": ("recognition quality", "ratio 0..1"),
    "iou": ("IoU of the semantic maps; null where not measured", "ratio 0..1"),
}
"""Meaning and unit of each column of the class table."""


def image_table(dataset: PanopticDataset, part: PartScores, table: ExitTable, *, has_gate: bool) -> pa.Table:
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


def _with_null(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]
