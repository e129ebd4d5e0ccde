"""How `eco eval` scores, joins and keeps detections: the box AP of COCO's evaluation.

Axes: N images, E exits.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from ecocli.artifacts.detection_columns import DETECTION_DOCS, table_columns
from ecocli.artifacts.manifest import FileContents
from ecocli.artifacts.summaries import EvaluationRow
from ecocli.artifacts.tables import ColumnDoc
from ecocli.config.detr import DetrConfig
from ecocli.config.evaluate import EvaluateConfig
from ecocli.data.boxes import DetectionDataset
from ecocli.data.detection import class_indices
from ecocli.inference.coco_output import detection_entries
from ecocli.inference.predictor import ImagePrediction
from ecocli.metrics.detection import DetectionTable
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.results import AveragePrecisions, ResultTable
from ecocli.metrics.scorecard import ScoreRow
from ecocli.scoring.box_scoring import BoxScores, BoxScoring, detection_table
from ecocli.scoring.evaluation_tables import gate_column, quality_column
from ecocli.scoring.score_boxes import BoxScorer
from ecocli.scoring.scored_dataset import ScoringTask

PREDICTIONS_NAME = "detections.json"


@dataclass(frozen=True)
class DetectionQuality:
    """The APs of a way of choosing exits.

    Attributes:
        per_class: AP and AP50 of each class that occurs, by class index.
    """

    boxes: AveragePrecisions
    per_class: Mapping[int, tuple[float, float]]

    @classmethod
    def of(cls, table: DetectionTable, weights: Float64[np.ndarray, "N E"]) -> "DetectionQuality":
        """Measure under exit probabilities per image."""
        return cls(table.box_quality(weights), table.class_quality(weights))


class DetectionEvaluation:
    """An evaluation of one split."""

    ap_truth: str | None = None
    image_docs: Mapping[str, ColumnDoc] = {
        **DETECTION_DOCS,
        "gate_quality": ColumnDoc("quality of the image at the gate's exit, as run; null without a gate"),
    }
    class_docs: Mapping[str, ColumnDoc] = {
        "row": ColumnDoc("way of choosing exits: exit D, gate, random, oracle"),
        "category_id": ColumnDoc("id of the category"),
        "name": ColumnDoc("name of the category"),
        "ap": ColumnDoc("box AP; null where the class does not occur", "ratio 0..1"),
        "ap50": ColumnDoc("box AP at IoU 0.5", "ratio 0..1"),
    }

    def __init__(
        self, config: EvaluateConfig, dataset: DetectionDataset, architecture: DetrConfig, *, exit_metrics: bool
    ) -> None:
        self._dataset, self._classes = dataset, architecture.num_classes
        self._class_index = class_indices(dataset.categories, architecture.num_classes)
        self.scoring = BoxScoring(BoxScorer(self._class_index, architecture.num_classes))

    def results(self, scores: BoxScores, exits: int) -> tuple[DetectionTable, Float64[np.ndarray, "N E"]]:
        """Detections of every fixed exit, and the AP of each image."""
        return detection_table(scores, range(exits), self._classes), scores.quality[:, :exits]

    def with_all_classes(self, counts: ResultTable) -> DetectionTable:
        """Count the model's classes, of which a derived table numbers only those that occur."""
        assert isinstance(counts, DetectionTable)
        return replace(counts, num_classes=self._classes)

    def gate_quality(self, scores: BoxScores, view: int) -> tuple[DetectionQuality, float | None]:
        """AP of the gate's run."""
        quality = DetectionQuality.of(
            detection_table(scores, (view,), self._classes), np.ones((scores.positions.size, 1))
        )
        return quality, quality.boxes.ap

    def quality_of(self, table: ExitTable[DetectionTable]) -> Callable[[Float64[np.ndarray, "N E"]], DetectionQuality]:
        """AP at expected detections."""
        counts = self.with_all_classes(table.counts)
        return lambda weights: DetectionQuality.of(counts, weights)

    def summarise(
        self,
        scores: BoxScores,
        table: ExitTable[DetectionTable],
        rows: Sequence[ScoreRow[DetectionQuality]],
        *,
        has_gate: bool,
    ) -> tuple[tuple[EvaluationRow, ...], dict[str, object], pa.Table]:
        """Give the rows of the summary, the task's columns of the image table, and the class table."""
        columns = {
            "quality": quality_column(table.quality),
            **table_columns(self.with_all_classes(table.counts)),
            "gate_quality": gate_column(scores.quality[:, -1] if has_gate else None, len(table.quality)),
        }
        return tuple(map(_row, rows)), columns, self._class_table(rows)

    def _class_table(self, rows: Sequence[ScoreRow[DetectionQuality]]) -> pa.Table:
        entries = []
        for row in rows:
            for category in self._dataset.categories:
                ap, ap50 = row.quality.per_class.get(self._class_index[category.id], (None, None))
                entries.append(
                    {"row": row.name, "category_id": category.id, "name": category.name, "ap": ap, "ap50": ap50}
                )
        number = pa.float64()
        kinds = (pa.string(), pa.int32(), pa.string(), number, number)
        return pa.Table.from_pylist(entries, pa.schema(zip(self.class_docs, kinds, strict=True)))

    def predictions(self, scores: BoxScores, task: ScoringTask, folder: Path) -> FileContents:
        """Write COCO's results of the gate's detections, without a gate of the deepest exit's."""
        ids = {index: id_ for id_, index in self._class_index.items()}
        images = [self._dataset.json_image_id(record) for record in self._dataset.records]
        boxes = scores.boxes
        entries = detection_entries(
            [images[position] for position in boxes.position.tolist()],
            [ids[index] for index in boxes.class_index.tolist()],
            boxes.score,
            boxes.box,
        )
        return {PREDICTIONS_NAME: json.dumps(entries).encode()}

    def post_process(self, prediction: ImagePrediction) -> None:
        """Turn queries into detections, as what is timed does."""
        prediction.detections()


def _row(row: ScoreRow[DetectionQuality]) -> EvaluationRow:
    return EvaluationRow(
        name=row.name,
        **asdict(row.quality.boxes),
        gflops=row.gflops,
        encoder_gflops=row.encoder_gflops,
        mean_depth=row.mean_depth,
        exit_shares=row.exit_shares,
    )
