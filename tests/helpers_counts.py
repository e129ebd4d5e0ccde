"""Counts of every image, exit and class, written out, as the sparse table that metrics work on."""

import numpy as np

from ecocli.metrics.assignment import CountTable


def dense_table(iou_sum: np.ndarray, tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> CountTable:
    """A table of dense arrays [N, E, K]."""
    at = np.nonzero(tp + fp + fn)
    return CountTable(*tp.shape, *at, iou_sum[at], *(array[at].astype(np.int32) for array in (tp, fp, fn)))
