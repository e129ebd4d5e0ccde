"""One pass over labelled test images: detections and their matches at every fixed exit and at the gate's.

Axes: N images, V views, P detections, W written detections, G entries of true boxes. Views are the fixed exits in
ascending depth, then the gate, which is really run. A match depends on its own image alone (``metrics.box_matching``),
so what is kept gives the AP of any choice of exits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt16

from ecocli.data.boxes import BoxRecord
from ecocli.inference.predictor import ImagePrediction, predict_exits, predict_gated
from ecocli.metrics.box_matching import TrueBoxes, positives
from ecocli.metrics.detection import DetectionTable
from ecocli.scoring.batches import LabelledBatch
from ecocli.scoring.score_boxes import BoxScorer, ScoredBoxes
from ecocli.scoring.scored_dataset import ScoringTask
from ecocli.scoring.scores import merge_entries, merge_images


@dataclass(frozen=True, eq=False)
class MatchEntries:
    """Detections of every view, exit by exit and best first; see ``MatchedDetections``."""

    position: Int64[np.ndarray, " P"]
    view: Int64[np.ndarray, " P"]
    class_index: Int64[np.ndarray, " P"]
    score: Float64[np.ndarray, " P"]
    matched: UInt16[np.ndarray, "P 4"]
    ignored: UInt16[np.ndarray, "P 4"]


@dataclass(frozen=True, eq=False)
class BoxEntries:
    """Detections of the view that is written: the gate's, without one the deepest exit's."""

    position: Int64[np.ndarray, " W"]
    class_index: Int64[np.ndarray, " W"]
    score: Float32[np.ndarray, " W"]
    box: Float32[np.ndarray, "W 4"]


@dataclass(frozen=True, eq=False)
class TruthEntries:
    """True boxes to be found, by image and class that occurs, per area range."""

    position: Int64[np.ndarray, " G"]
    class_index: Int64[np.ndarray, " G"]
    count: Int64[np.ndarray, "G 4"]


@dataclass(frozen=True, eq=False)
class BoxScores:
    """Scores of some images; see ``scores.Scores``.

    Attributes:
        quality: Quality of each image at each fixed exit; NaN where undefined or not run.
        matches: Detections of every view.
        truth: What was to be found.
    """

    positions: Int64[np.ndarray, " N"]
    original_sizes: Int64[np.ndarray, "N 2"]
    padded_sizes: Int64[np.ndarray, "N 2"]
    gate_depths: Int64[np.ndarray, " N"]
    quality: Float64[np.ndarray, "N V"]
    matches: MatchEntries
    boxes: BoxEntries
    truth: TruthEntries


class BoxPartScorer:
    """Scores batches one after the other."""

    def __init__(self, task: ScoringTask, scorer: BoxScorer) -> None:
        self._task, self._scorer = task, scorer
        self._gate_view = len(task.exit_depths)
        self._images: list[tuple[int, ...]] = []
        self._quality: list[np.ndarray] = []
        self._matches: list[tuple[int, int, ScoredBoxes]] = []
        self._truths: list[tuple[int, TrueBoxes]] = []

    def add(self, batch: LabelledBatch) -> None:
        """Predict and score one batch."""
        task, images = self._task, batch.images
        views: dict[int, list[ImagePrediction]] = {}
        if task.every_exit:
            features = task.model.extract(images.images, images.image_sizes)
            views = dict(enumerate(predict_exits(task.model, features, images, task.exit_depths)))
        if task.gate is not None:
            views[self._gate_view] = predict_gated(task.model, task.gate, images)
        padded = tuple(images.images.shape[-2:])
        for b, (position, truth) in enumerate(zip(batch.positions, batch.truths, strict=True)):
            self._truths.append((position, truth))
            quality = np.full(self._gate_view + 1, np.nan)
            for view, predictions in views.items():
                scored = self._scorer(predictions[b], truth)
                self._matches.append((position, view, scored))
                quality[view] = scored.counts.quality
            self._quality.append(quality)
            depth = views[self._gate_view][b].exit_depth if task.gate is not None else 0
            self._images.append((position, *images.original_sizes[b], *padded, depth))

    def result(self) -> BoxScores:
        """Return the scores of all batches added."""
        images = np.array(self._images, np.int64).reshape(-1, 6)
        written = self._gate_view - (self._task.gate is None)
        kept = [(position, scored.detections) for position, view, scored in self._matches if view == written]
        kept = kept if self._task.keep_predictions else []
        matches = [(position, view, scored.counts.matched) for position, view, scored in self._matches]
        counts = [(position, positives(truth, self._scorer.num_classes)) for position, truth in self._truths]
        held = [(position, np.flatnonzero(count.any(axis=1)), count) for position, count in counts]
        return BoxScores(
            positions=images[:, 0],
            original_sizes=images[:, 1:3],
            padded_sizes=images[:, 3:5],
            gate_depths=images[:, 5],
            quality=np.array(self._quality).reshape(-1, self._gate_view + 1),
            matches=MatchEntries(
                position=_join([np.full(len(m.score), position) for position, _, m in matches], np.int64),
                view=_join([np.full(len(m.score), view) for _, view, m in matches], np.int64),
                class_index=_join([m.class_index for _, _, m in matches], np.int64),
                score=_join([m.score for _, _, m in matches], np.float64),
                matched=_join([m.matched for _, _, m in matches], np.uint16, 4),
                ignored=_join([m.ignored for _, _, m in matches], np.uint16, 4),
            ),
            boxes=BoxEntries(
                position=_join([np.full(len(d.score), position) for position, d in kept], np.int64),
                class_index=_join([d.class_index for _, d in kept], np.int64),
                score=_join([d.score for _, d in kept], np.float32),
                box=_join([d.boxes for _, d in kept], np.float32, 4),
            ),
            truth=TruthEntries(
                position=_join([np.full(len(classes), position) for position, classes, _ in held], np.int64),
                class_index=_join([classes for _, classes, _ in held], np.int64),
                count=_join([count[classes] for _, classes, count in held], np.int64, 4),
            ),
        )


def _join(arrays: Sequence[np.ndarray], kind: Any, width: int | None = None) -> Any:
    shape = (-1,) if width is None else (-1, width)
    return np.concatenate([np.zeros(0), *(array.ravel() for array in arrays)]).astype(kind).reshape(shape)


@dataclass(frozen=True)
class BoxScoring:
    """Scores boxes."""

    scorer_of_image: BoxScorer

    @property
    def kind(self) -> type[BoxScores]:
        """Matched detections and what was to be found."""
        return BoxScores

    def truth(self, dataset: Any, record: BoxRecord) -> TrueBoxes:
        """Take the true boxes of an image by the model's classes."""
        return self.scorer_of_image.truth(dataset, record)

    def scorer(self, task: ScoringTask, picture_folder: Path | None) -> BoxPartScorer:
        """Begin a part; boxes need no pictures."""
        return BoxPartScorer(task, self.scorer_of_image)

    def merge(self, parts: Sequence[BoxScores]) -> BoxScores:
        """Join parts, at least one, in the order of the data set."""
        order = np.argsort(np.concatenate([part.positions for part in parts]), kind="stable")
        return BoxScores(
            **merge_images(parts),
            quality=np.concatenate([part.quality for part in parts])[order],
            matches=merge_entries([part.matches for part in parts]),
            boxes=merge_entries([part.boxes for part in parts]),
            truth=merge_entries([part.truth for part in parts]),
        )


def detection_table(scores: BoxScores, views: Sequence[int], num_classes: int) -> DetectionTable:
    """Take some views out of the scores of a whole data set, in the order given, as exits of a table."""
    place = np.full(max(views) + 2, -1, np.int64)
    place[list(views)] = np.arange(len(views))
    exit_index = place[np.minimum(scores.matches.view, place.size - 1)]
    wanted = exit_index >= 0
    entries, truth = scores.matches, scores.truth
    return DetectionTable(
        num_images=scores.positions.size,
        num_exits=len(views),
        num_classes=num_classes,
        image=entries.position[wanted],
        exit_index=exit_index[wanted],
        class_index=entries.class_index[wanted],
        score=entries.score[wanted],
        matched=entries.matched[wanted],
        ignored=entries.ignored[wanted],
        true_image=truth.position,
        true_class=truth.class_index,
        true_counts=truth.count,
    )
