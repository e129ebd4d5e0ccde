"""Object detection."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import BoxQualityName, QualityName, TaskName
from ecocli.data.boxes import DetectionDataset
from ecocli.data.categories import Category
from ecocli.data.detection import class_indices, open_detection

if TYPE_CHECKING:
    from ecocli.artifacts.detection_columns import ImageDetections
    from ecocli.metrics.box_matching import TrueBoxes
    from ecocli.scoring.batches import TruthLoader
    from ecocli.scoring.score_stream import Score
    from ecocli.training.batches import SampleSource


class DetectionTask:
    """Boxes, judged by COCO's AP."""

    name: TaskName = "detection"

    def open(
        self,
        config: DatasetConfig,
        split: str,
        *,
        advance: Callable[[int], None] | None = None,
        check_files: bool = True,
    ) -> DetectionDataset:
        """Open a split with its boxes."""
        return open_detection(config, split, advance=advance, check_files=check_files)

    def num_classes(self, architecture: AnyArchitecture, categories: Sequence[Category]) -> int:
        """One class for each category; or one for each id up to the largest, if the architecture has so many."""
        by_id = max(category.id for category in categories) + 1
        return by_id if architecture.num_classes == by_id else len(categories)

    def samples(self, dataset: DetectionDataset, num_classes: int, config: DatasetConfig, seed: int) -> "SampleSource":
        """Training images with boxes."""
        from ecocli.data.box_training import BoxTrainingDataset

        indices = class_indices(dataset.categories, num_classes)
        return BoxTrainingDataset(dataset, indices, config.augmentation, seed, cache=config.cache_images)

    def quality(self, asked: BoxQualityName) -> QualityName:
        """The one that was asked for."""
        return asked

    def scorer(
        self, architecture: AnyArchitecture, categories: Sequence[Category], quality: BoxQualityName
    ) -> "tuple[Score, TruthLoader]":
        """Matched detections against the boxes."""
        from ecocli.scoring.score_boxes import BoxScorer

        scorer = BoxScorer(class_indices(categories, architecture.num_classes), architecture.num_classes, quality)
        return scorer, scorer.truth

    def mirror(self, truth: "TrueBoxes", width: int) -> "TrueBoxes":
        """Turn the boxes round."""
        boxes = truth.boxes.copy()
        boxes[:, 0] = width - boxes[:, 0] - boxes[:, 2]
        return replace(truth, boxes=boxes)

    def columns(self, results: "Sequence[Sequence[ImageDetections]]") -> dict[str, Any]:
        """Quality, detections with their matches, and counts of true boxes."""
        from ecocli.artifacts.detection_columns import detection_columns

        return detection_columns(results)
