"""How `eco eval` scores, joins and keeps panoptic maps: PQ beside mIoU and the AP of masks.

Axes: N images, E exits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from ecocli.artifacts.manifest import FileContents
from ecocli.artifacts.summaries import EvaluationRow
from ecocli.artifacts.tables import ColumnDoc
from ecocli.config.any_architecture import Segmentation
from ecocli.config.evaluate import EvaluateConfig
from ecocli.config.rules import RulesName
from ecocli.data.panoptic import PanopticDataset
from ecocli.inference.loading import panoptic_rule
from ecocli.inference.predictor import ImagePrediction
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.panoptic_quality import PanopticQuality, panoptic_quality
from ecocli.metrics.results import ResultTable
from ecocli.metrics.rules import RULES
from ecocli.metrics.scorecard import ScoreRow, expected_counts, image_qualities
from ecocli.scoring.assemble import count_table, further_metrics, row_summary, sum_view
from ecocli.scoring.evaluation_tables import CLASS_COLUMNS, PANOPTIC_COLUMNS, class_table, panoptic_result_columns
from ecocli.scoring.instance_truth import read_instance_truth
from ecocli.scoring.part_scorer import PanopticScoring, ScoringOptions
from ecocli.scoring.predictions_file import pack_predictions
from ecocli.scoring.scored_dataset import ScoringTask, predicted_maps
from ecocli.scoring.scores import PartScores


class PanopticEvaluation:
    """An evaluation of one split."""

    image_docs: Mapping[str, ColumnDoc] = {name: ColumnDoc(*doc) for name, doc in PANOPTIC_COLUMNS.items()}
    class_docs: Mapping[str, ColumnDoc] = {name: ColumnDoc(*doc) for name, doc in CLASS_COLUMNS.items()}

    def __init__(
        self, config: EvaluateConfig, dataset: PanopticDataset, architecture: Segmentation, *, exit_metrics: bool
    ) -> None:
        """Read the true instances first of all: hours of scoring must not end at a damaged file."""
        self._dataset = dataset
        self._rule = panoptic_rule(architecture, [(c.id, c.is_thing) for c in dataset.categories])
        self._wants_ap, self._exit_metrics = "ap" in config.metrics, exit_metrics
        self._rules: RulesName = config.rules
        self._truth = read_instance_truth(dataset) if config.wants_instance_file else None
        options = ScoringOptions(
            exit_metrics=exit_metrics,
            semantic="miou" in config.metrics,
            instances=self._wants_ap,
            max_instances=config.max_instances,
            void=RULES[self._rules].uses_void,
        )
        self.scoring = PanopticScoring(self._rule, options)
        file = dataset.instance_file if config.wants_instance_file else None
        self.ap_truth = None if not self._wants_ap else "panoptic maps" if file is None else file.name

    def results(self, scores: PartScores, exits: int) -> tuple[CountTable, Float64[np.ndarray, "N E"]]:
        """Counts of every fixed exit, and the PQ of each image."""
        counts = count_table(scores.counts, range(exits), scores.positions.size, len(self._dataset.categories))
        return counts, image_qualities(counts)

    def with_all_classes(self, counts: ResultTable) -> CountTable:
        """Count the classes of the data set, of which a derived table numbers only those that occur."""
        assert isinstance(counts, CountTable)
        return replace(counts, num_classes=len(self._dataset.categories))

    def gate_quality(self, scores: PartScores, view: int) -> tuple[PanopticQuality, float | None]:
        """PQ of the gate's run."""
        quality = panoptic_quality(sum_view(scores, view, len(self._dataset.categories)), self._rule.is_thing)
        return quality, quality.pq

    def quality_of(self, table: ExitTable[CountTable]) -> Callable[[Float64[np.ndarray, "N E"]], PanopticQuality]:
        """PQ at expected counts."""
        counts = self.with_all_classes(table.counts)
        return lambda weights: panoptic_quality(expected_counts(counts, weights), self._rule.is_thing)

    def summarise(
        self,
        scores: PartScores,
        table: ExitTable[CountTable],
        rows: Sequence[ScoreRow[PanopticQuality]],
        *,
        has_gate: bool,
    ) -> tuple[tuple[EvaluationRow, ...], dict[str, object], pa.Table]:
        """Give the rows of the summary, the task's columns of the image table, and the class table."""
        metrics = further_metrics(
            scores,
            rows,
            table,
            rules=self._rules,
            ap=self._wants_ap,
            exits=self._exit_metrics,
            truth=self._truth,
        )
        columns = panoptic_result_columns(scores, self.with_all_classes(table.counts), has_gate=has_gate)
        summaries = tuple(row_summary(row, metrics[row.name]) for row in rows)
        return summaries, columns, class_table(self._dataset, rows, metrics)

    def predictions(self, scores: PartScores, task: ScoringTask, folder: Path) -> FileContents:
        """Pack the predicted maps."""
        packed = pack_predictions(self._dataset, scores, predicted_maps(task, folder), folder)
        return {packed.name: packed}

    def post_process(self, prediction: ImagePrediction) -> None:
        """Make the panoptic map, as what is timed does."""
        prediction.panoptic(self._rule)
