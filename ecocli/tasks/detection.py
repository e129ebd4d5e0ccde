"""Object detection."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.dataset import DatasetConfig, ResizeConfig
from ecocli.config.derive import BoxQualityName, QualityName, TaskName
from ecocli.config.detr import DetrConfig
from ecocli.config.evaluate import EvaluateConfig, MetricName
from ecocli.config.predict import PredictConfig
from ecocli.data.boxes import DetectionDataset
from ecocli.data.categories import Category
from ecocli.data.detection import class_indices, open_detection
from ecocli.tasks.task import Size

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ecocli.artifacts.detection_columns import ImageDetections
    from ecocli.data.checking import SplitReport
    from ecocli.metrics.box_matching import TrueBoxes
    from ecocli.metrics.detection import DetectionTable
    from ecocli.scoring.batches import TruthLoader
    from ecocli.scoring.score_stream import Score
    from ecocli.tasks.detection_evaluation import DetectionEvaluation
    from ecocli.tasks.detection_photos import DetectionPhotos
    from ecocli.tasks.detection_pictures import DetectionPictures
    from ecocli.training.batches import SampleSource


class DetectionTask:
    """Boxes, judged by COCO's AP."""

    name: TaskName = "detection"
    further_metrics: tuple[MetricName, ...] = ()
    image_quality = "quality"
    class_quality = "ap"
    annotated_name = "boxes"
    photo_outputs: tuple[str, ...] = ()
    predictions_name = "detections.json"
    official_package = "pycocotools"
    # It adds precisions in another order.
    official_tolerance = 1e-9

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

    def qualities(
        self, results: "Sequence[Sequence[ImageDetections]]", categories: Sequence[Category]
    ) -> list[dict[str, float | None]]:
        """Box AP with its parts."""
        import numpy as np

        from ecocli.artifacts.detection_columns import detections_of

        table = detections_of(results)
        every = np.ones(table.num_images, np.int64)[:, None] * np.eye(table.num_exits)[:, None]
        return [asdict(table.box_quality(weights)) for weights in every]

    def evaluation(
        self, config: EvaluateConfig, dataset: DetectionDataset, architecture: DetrConfig, *, exit_metrics: bool
    ) -> "DetectionEvaluation":
        """Box AP."""
        from ecocli.tasks.detection_evaluation import DetectionEvaluation

        return DetectionEvaluation(config, dataset, architecture, exit_metrics=exit_metrics)

    def read_results(self, images: "pa.Table", num_exits: int, num_classes: int) -> "DetectionTable":
        """Matched detections."""
        from ecocli.artifacts.detection_columns import read_detections

        return read_detections(images.combine_chunks(), num_exits)

    def official_quality(self, dataset: DetectionDataset, predictions: Path) -> dict[str, float | None]:
        """The six APs."""
        from ecocli.scoring.official_boxes import official_box_quality

        return official_box_quality(dataset, predictions)

    def pictures(self, architecture: DetrConfig, categories: Sequence[Category]) -> "DetectionPictures":
        """Framed boxes."""
        from ecocli.tasks.detection_pictures import DetectionPictures

        return DetectionPictures(architecture, categories)

    def photo_writer(
        self, config: PredictConfig, architecture: DetrConfig, categories: Sequence[Category]
    ) -> "DetectionPhotos":
        """COCO's results and overlays."""
        from ecocli.tasks.detection_photos import DetectionPhotos

        return DetectionPhotos(config, architecture, categories)

    def check(
        self, dataset: DetectionDataset, *, sample: int | None, processes: int, advance: Callable[[int], None]
    ) -> "SplitReport":
        """Check images and boxes."""
        from ecocli.data.box_checking import box_notes, check_boxes
        from ecocli.data.checking import check_split

        return check_split(
            dataset, check=check_boxes, notes=box_notes, sample=sample, processes=processes, advance=advance
        )

    def timed_post_processing(
        self, architecture: DetrConfig, padded: Size, original: Size
    ) -> "Callable[[Mapping[str, Tensor]], None]":
        """Queries to boxes."""
        from ecocli.inference.detections import detect

        def post_process(final: "Mapping[str, Tensor]") -> None:
            for logits, boxes in zip(final["pred_logits"][-1], final["pred_boxes"][-1], strict=True):
                detect(logits, boxes, original)

        return post_process

    def annotated(self, categories: Sequence[Category]) -> tuple[Category, ...]:
        """The things."""
        return tuple(category for category in categories if category.is_thing)

    def published_categories(
        self, said: str | None, architecture: DetrConfig, labels: Sequence[str]
    ) -> tuple[tuple[Category, ...], ResizeConfig]:
        """COCO's things, or an instance annotation file."""
        from ecocli.tasks.published import box_categories

        return box_categories(said, architecture.num_classes)
