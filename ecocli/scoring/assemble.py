"""From the scores of a data set to counts at every exit, and to each row's mIoU and AP.

Axes: N images, E exits, V views (the exits, the gate, the oracle), K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ecocli.artifacts.summaries import EvaluationRow
from ecocli.config.rules import RulesName
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.instance import TrueInstance
from ecocli.metrics.panoptic_quality import ImageCounts, PanopticQuality
from ecocli.metrics.results import AveragePrecisions
from ecocli.metrics.rules import RULES
from ecocli.metrics.scorecard import (
    ATTAINABLE,
    GATE,
    ORACLE,
    RANDOM,
    ScoreRow,
    expected_counts,
)
from ecocli.metrics.semantic import SemanticQuality
from ecocli.scoring.scores import CountEntries, PartScores, instance_images


@dataclass(frozen=True)
class FurtherMetrics:
    """Metrics of one row beside PQ; None where not measured."""

    semantic: SemanticQuality | None
    instance: AveragePrecisions | None


def count_table(entries: CountEntries, views: Sequence[int], num_images: int, num_classes: int) -> CountTable:
    """Take some views' counts out of the scores of a whole data set, in the order given, as exits of a table."""
    row_of = np.full(max(views) + 2, -1, np.int64)
    row_of[list(views)] = np.arange(len(views))
    exit_index = row_of[np.minimum(entries.view, row_of.size - 1)]
    wanted = exit_index >= 0
    return CountTable(
        num_images=num_images,
        num_exits=len(views),
        num_classes=num_classes,
        image=entries.position[wanted],
        exit_index=exit_index[wanted],
        class_index=entries.class_index[wanted],
        iou_sum=entries.iou_sum[wanted],
        tp=entries.tp[wanted].astype(np.int32),
        fp=entries.fp[wanted].astype(np.int32),
        fn=entries.fn[wanted].astype(np.int32),
    )


def sum_view(part: PartScores, view: int, num_classes: int) -> ImageCounts:
    """Sum one view's counts over all images, in the order of the data set."""
    table = count_table(part.counts, (view,), part.positions.size, num_classes)
    return expected_counts(table, np.ones((part.positions.size, 1)))


def further_metrics(
    part: PartScores,
    rows: Sequence[ScoreRow[PanopticQuality]],
    table: ExitTable[CountTable],
    *,
    rules: RulesName,
    ap: bool,
    exits: bool,
    truth: Sequence[Sequence[TrueInstance]] | None = None,
) -> dict[str, FurtherMetrics]:
    """Work out mIoU and AP of every row that has them.

    Args:
        ap: Whether instances were kept.
        exits: Whether the fixed exits were run with all metrics, not the gate alone.
        truth: True instances of each image for AP, where they are not to be those of the panoptic maps.

    Returns:
        By row name. The random mixture's mIoU is that of its expected pixels; AP has no such value.
    """
    E = len(table.exit_depths)
    whole = np.ones(part.positions.size, np.int64)
    scored = RULES[rules]
    oracle = table.oracle
    metrics = {}
    for row in rows:
        confusion, views = None, None
        if row.name == GATE:
            confusion, views = _at(part.confusion, E), whole * E
        elif exits and row.name == RANDOM:
            confusion = np.tensordot(np.array(row.exit_shares), part.confusion[:E], 1) if len(part.confusion) else None
        elif exits and row.name == ORACLE:
            confusion, views = _at(part.confusion, E + 1), oracle
        elif exits and row.name != ATTAINABLE:
            exit_index = row.exit_shares.index(1.0)
            confusion, views = _at(part.confusion, exit_index), whole * exit_index
        metrics[row.name] = FurtherMetrics(
            None if confusion is None else scored.semantic(confusion),
            scored.instance(instance_images(part, views, truth)) if ap and views is not None else None,
        )
    return metrics


def row_summary(row: ScoreRow[PanopticQuality], further: FurtherMetrics) -> EvaluationRow:
    """Bring one row into the form in which an evaluation keeps it."""
    quality = row.quality
    return EvaluationRow(
        name=row.name,
        pq=quality.overall.pq,
        sq=quality.overall.sq,
        rq=quality.overall.rq,
        pq_things=quality.things.pq,
        pq_stuff=quality.stuff.pq,
        miou=further.semantic.miou if further.semantic else None,
        ap=further.instance.ap if further.instance else None,
        ap50=further.instance.ap50 if further.instance else None,
        gflops=row.gflops,
        encoder_gflops=row.encoder_gflops,
        mean_depth=row.mean_depth,
        exit_shares=row.exit_shares,
    )


def _at(confusion: Int64[np.ndarray, "_views K K"], view: int) -> Float64[np.ndarray, "K K"] | None:
    return confusion[view].astype(np.float64) if len(confusion) else None
