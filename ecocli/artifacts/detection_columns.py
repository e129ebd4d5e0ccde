"""Recorded detections as columns of the derived table, out and in.

Axes: N images, E exits, K classes, P detections. The lists ``detection_*`` of a row run in parallel, exit by exit and
best first; ``true_*`` count the boxes to be found, one entry per class. Bits and area ranges:
``ecocli.metrics.box_matching``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from ecocli.artifacts.tables import ColumnDoc
from ecocli.metrics.box_matching import AREA_NAMES, MatchedDetections
from ecocli.metrics.detection import DetectionTable

_BITS = "one bit per IoU threshold, the lowest for 0.50: whether a detection"
DETECTION_DOCS = {
    "quality": ColumnDoc("quality of the image at each exit, as the manifest names it; null where undefined"),
    "detection_exit": ColumnDoc("exit index of each detection, from 0"),
    "detection_class": ColumnDoc("class index of each detection"),
    "detection_score": ColumnDoc("score of each detection", "ratio 0..1"),
    **{f"detection_matched_{area}": ColumnDoc(f"{_BITS} has a true box ({area})") for area in AREA_NAMES},
    **{f"detection_ignored_{area}": ColumnDoc(f"{_BITS} counts for nothing ({area})") for area in AREA_NAMES},
    "true_class": ColumnDoc("class index of each entry of the true boxes"),
    **{f"true_{area}": ColumnDoc(f"true boxes to be found ({area})", "boxes") for area in AREA_NAMES},
}
RESULT_NAMES = tuple(name for name in DETECTION_DOCS if name != "quality")


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """What is kept of one image at one exit.

    Attributes:
        quality: Of the image; NaN where undefined.
        positives: True boxes to be found per class and area range; the same at every exit.
    """

    quality: float
    matched: MatchedDetections
    positives: Int64[np.ndarray, "K 4"]


def detections_of(results: Sequence[Sequence[ImageDetections]]) -> DetectionTable:
    """Gather the results of images at their exits, at least one image."""
    found = [(image, index, r.matched) for image, row in enumerate(results) for index, r in enumerate(row)]
    held = [np.flatnonzero(row[0].positives.any(axis=1)) for row in results]

    def join(values: Sequence[np.ndarray], kind: Any, *shape: int) -> Any:
        return np.concatenate([np.zeros((0, *shape)), *values]).astype(kind)

    return DetectionTable(
        num_images=len(results),
        num_exits=len(results[0]),
        num_classes=len(results[0][0].positives),
        image=join([np.full(len(m.score), image) for image, _, m in found], np.int64),
        exit_index=join([np.full(len(m.score), index) for _, index, m in found], np.int64),
        class_index=join([m.class_index for _, _, m in found], np.int64),
        score=join([m.score for _, _, m in found], np.float64),
        matched=join([m.matched for _, _, m in found], np.uint16, len(AREA_NAMES)),
        ignored=join([m.ignored for _, _, m in found], np.uint16, len(AREA_NAMES)),
        true_image=join([np.full(len(classes), image) for image, classes in enumerate(held)], np.int64),
        true_class=join(held, np.int64),
        true_counts=join(
            [row[0].positives[classes] for row, classes in zip(results, held, strict=True)], np.int64, len(AREA_NAMES)
        ),
    )


def detection_columns(results: Sequence[Sequence[ImageDetections]]) -> dict[str, Any]:
    """Write the results of images at their exits as columns, one row per image."""
    quality = [[None if np.isnan(r.quality) else float(r.quality) for r in image] for image in results]
    return {"quality": pa.array(quality, pa.list_(pa.float64())), **table_columns(detections_of(results))}


def table_columns(table: DetectionTable) -> dict[str, Any]:
    """Write a table as columns, one row per image; ``read_detections`` reads them back."""

    def column(image: np.ndarray, values: np.ndarray, kind: pa.DataType) -> Any:
        offsets: Any = pa.array(np.searchsorted(image, np.arange(table.num_images + 1)).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(values.astype(kind.to_pandas_dtype()), kind))

    columns = {
        "detection_exit": column(table.image, table.exit_index, pa.int8()),
        "detection_class": column(table.image, table.class_index, pa.int16()),
        "detection_score": column(table.image, table.score, pa.float32()),
    }
    for place, area in enumerate(AREA_NAMES):
        columns[f"detection_matched_{area}"] = column(table.image, table.matched[:, place], pa.uint16())
        columns[f"detection_ignored_{area}"] = column(table.image, table.ignored[:, place], pa.uint16())
    columns["true_class"] = column(table.true_image, table.true_class, pa.int16())
    for place, area in enumerate(AREA_NAMES):
        columns[f"true_{area}"] = column(table.true_image, table.true_counts[:, place], pa.int32())
    return columns


def read_detections(table: pa.Table, num_exits: int) -> DetectionTable:
    """Read the columns back.

    Args:
        table: Has ``RESULT_NAMES``, in one chunk.

    Raises:
        ValueError: Lists that run in parallel have different lengths, or an index is impossible.
    """
    flat = {name: _flat(table, name) for name in RESULT_NAMES}
    images = {}
    for prefix in ("detection_", "true_"):
        names = [name for name in RESULT_NAMES if name.startswith(prefix)]
        lengths = pc.list_value_length(table[names[0]]).to_numpy()
        if any(len(flat[name]) != len(flat[names[0]]) for name in names):
            raise ValueError(f"its {prefix}* columns have lists of different lengths")
        images[prefix] = np.repeat(np.arange(table.num_rows, dtype=np.int64), lengths)
    classes = [int(flat[name].max()) + 1 for name in ("detection_class", "true_class") if len(flat[name])]
    return DetectionTable(
        num_images=table.num_rows,
        num_exits=num_exits,
        # Classes that occur nowhere have no part in any average, so K need not be the data set's.
        num_classes=max(classes, default=1),
        image=images["detection_"],
        exit_index=flat["detection_exit"].astype(np.int64),
        class_index=flat["detection_class"].astype(np.int64),
        score=flat["detection_score"].astype(np.float64),
        matched=np.stack([flat[f"detection_matched_{area}"] for area in AREA_NAMES], axis=1),
        ignored=np.stack([flat[f"detection_ignored_{area}"] for area in AREA_NAMES], axis=1),
        true_image=images["true_"],
        true_class=flat["true_class"].astype(np.int64),
        true_counts=np.stack([flat[f"true_{area}"] for area in AREA_NAMES], axis=1).astype(np.int64),
    )


def _flat(table: pa.Table, name: str) -> Any:
    column = table[name]
    values: Any = column.chunk(0).flatten() if column.num_chunks else pa.array([], column.type.value_type)
    return values.to_numpy(zero_copy_only=False)
