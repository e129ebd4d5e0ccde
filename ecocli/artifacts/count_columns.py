"""Panoptic counts of images as columns of a table, out and in.

Axes: N images, E exits, K classes.
Counts are sparse: the lists ``count_*`` of a row run in parallel, one entry per exit and class that occurs there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecocli.artifacts.tables import ColumnDoc
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.panoptic_quality import ImageCounts, image_pq

COUNT_DOCS = {
    "count_exit": ColumnDoc("exit index of each count, from 0"),
    "count_class": ColumnDoc("class index of each count, the rank of the category id"),
    "count_iou_sum": ColumnDoc("sum of the IoU of matched segments", "ratio"),
    "count_tp": ColumnDoc("matched segments", "segments"),
    "count_fp": ColumnDoc("predicted segments without match", "segments"),
    "count_fn": ColumnDoc("true segments without match", "segments"),
}
PANOPTIC_DOCS = {
    "pq": ColumnDoc("panoptic quality of the image at each exit, null where nothing is there to score", "ratio 0..1"),
    **COUNT_DOCS,
}


def count_columns(counts: CountTable) -> dict[str, Any]:
    """Write counts as lists, one row per image."""
    offsets: Any = pa.array(np.searchsorted(counts.image, np.arange(counts.num_images + 1)), pa.int32())
    values = (counts.exit_index, counts.class_index, counts.iou_sum, counts.tp, counts.fp, counts.fn)
    kinds: tuple[Any, ...] = (pa.int8(), pa.int16(), pa.float64(), pa.int32(), pa.int32(), pa.int32())
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(value, kind))
        for name, value, kind in zip(COUNT_DOCS, values, kinds, strict=True)
    }


def panoptic_columns(results: Sequence[Sequence[ImageCounts]]) -> dict[str, Any]:
    """Write panoptic quality and counts of images at their exits, one row per image."""
    entries = []
    for number, image in enumerate(results):
        exit_index, class_index = np.nonzero(np.stack([counts.tp + counts.fp + counts.fn for counts in image]))
        stacked = [np.stack([getattr(c, name) for c in image]) for name in ("iou_sum", "tp", "fp", "fn")]
        values = [value[exit_index, class_index] for value in stacked]
        entries.append((np.full(len(exit_index), number), exit_index, class_index, *values))
    number_of, exits, classes, iou_sum, *numbers = (np.concatenate(part) for part in zip(*entries, strict=True))
    shape = len(results), len(results[0]), len(results[0][0].tp)
    tp, fp, fn = (part.astype(np.int32) for part in numbers)
    table = CountTable(*shape, number_of, exits, classes, iou_sum, tp, fp, fn)
    quality = [[image_pq(counts) for counts in image] for image in results]
    return {"pq": pa.array(quality, pa.list_(pa.float64())), **count_columns(table)}


def read_counts(table: pa.Table, num_exits: int, num_classes: int | None = None) -> CountTable:
    """Read counts back.

    Args:
        table: Holds the columns of ``COUNT_DOCS`` in one chunk.
        num_classes: K; by default the classes up to the last that occurs, as no other has a part in any average.

    Raises:
        ValueError: The columns hold something else.
    """
    lengths = pc.list_value_length(table["count_exit"]).to_numpy()
    entries = [flat_values(table, name).to_numpy(zero_copy_only=False) for name in COUNT_DOCS]
    for name, entry in zip(COUNT_DOCS, entries, strict=True):
        # Nulls come as floating-point numbers.
        whole = name != "count_iou_sum"
        if entry.dtype.kind != ("i" if whole else "f") or not np.isfinite(entry).all() or (entry < 0).any():
            kind = "whole numbers" if whole else "finite numbers"
            raise ValueError(f"its column {name} holds something else than {kind} from 0")
    if len({len(entry) for entry in entries}) > 1:
        raise ValueError("its count columns have lists of different lengths")
    K = num_classes or (int(entries[1].max()) + 1 if len(entries[1]) else 1)
    image = np.repeat(np.arange(table.num_rows, dtype=np.int64), lengths)
    exit_index, class_index = (entry.astype(np.int64) for entry in entries[:2])
    return CountTable(table.num_rows, num_exits, K, image, exit_index, class_index, *entries[2:])


def flat_values(table: pa.Table, name: str) -> Any:
    """All values of a list column, one list after the other."""
    column: Any = table[name].combine_chunks()
    return column.flatten()
