"""Panoptic segmentation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecocli.config.any_architecture import AnyArchitecture, Segmentation
from ecocli.config.dataset import DatasetConfig, ResizeConfig
from ecocli.config.derive import BoxQualityName, QualityName, TaskName
from ecocli.config.evaluate import EvaluateConfig, MetricName
from ecocli.config.predict import PredictConfig
from ecocli.data.categories import Category
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import PanopticDataset
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.panoptic_quality import ImageCounts, panoptic_quality, sum_counts
from ecocli.tasks.task import Size

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ecocli.data.checking import SplitReport
    from ecocli.inference.predictor import ImagePrediction
    from ecocli.scoring.batches import TruePanoptic, TruthLoader
    from ecocli.scoring.score_exits import ScoredPrediction
    from ecocli.scoring.score_stream import Score
    from ecocli.tasks.panoptic_evaluation import PanopticEvaluation
    from ecocli.tasks.panoptic_photos import PanopticPhotos
    from ecocli.tasks.panoptic_pictures import PanopticPictures
    from ecocli.training.batches import SampleSource


# Queries that reach the masks in post-processing; about what photographs give.
_CONFIDENT_QUERIES = 20


class PanopticTask:
    """Panoptic maps, judged by PQ."""

    name: TaskName = "panoptic"
    further_metrics: tuple[MetricName, ...] = ("miou", "ap")
    image_quality = "pq"
    class_quality = "pq"
    annotated_name = "segments"
    photo_outputs: tuple[str, ...] = ("semantic", "instances")
    predictions_name = "predictions.zip"
    official_package = "panopticapi"
    official_tolerance = 0.0

    def open(
        self,
        config: DatasetConfig,
        split: str,
        *,
        advance: Callable[[int], None] | None = None,
        check_files: bool = True,
    ) -> PanopticDataset:
        """Open a split with its panoptic maps."""
        return open_dataset(config, split, advance=advance, check_files=check_files)

    def num_classes(self, architecture: AnyArchitecture, categories: Sequence[Category]) -> int:
        """One class for each category."""
        return len(categories)

    def samples(self, dataset: PanopticDataset, num_classes: int, config: DatasetConfig, seed: int) -> "SampleSource":
        """Training images with masks."""
        from ecocli.data.training import TrainingDataset

        return TrainingDataset(dataset, config.augmentation, seed, cache=config.cache_images)

    def quality(self, asked: BoxQualityName) -> QualityName:
        """The image's own PQ."""
        return "pq"

    def scorer(
        self, architecture: Segmentation, categories: Sequence[Category], quality: BoxQualityName
    ) -> "tuple[Score, TruthLoader]":
        """Panoptic counts against the maps."""
        from ecocli.inference.loading import panoptic_rule
        from ecocli.scoring.batches import panoptic_truth
        from ecocli.scoring.score_exits import score_prediction

        rule = panoptic_rule(architecture, [(category.id, category.is_thing) for category in categories])

        def score(prediction: "ImagePrediction", truth: "TruePanoptic") -> "ScoredPrediction":
            return score_prediction(prediction, truth, rule)

        return score, panoptic_truth

    def mirror(self, truth: "TruePanoptic", width: int) -> "TruePanoptic":
        """Turn the map round, and the segments' boxes."""
        segments = []
        for segment in truth.segments:
            left, top, box_width, height = segment.bbox
            segments.append(replace(segment, bbox=(width - left - box_width, top, box_width, height)))
        return replace(truth, panoptic_map=np.ascontiguousarray(truth.panoptic_map[:, ::-1]), segments=segments)

    def columns(self, results: Sequence[Sequence[ImageCounts]]) -> dict[str, Any]:
        """Quality and sparse counts."""
        from ecocli.artifacts.count_columns import panoptic_columns

        return panoptic_columns(results)

    def qualities(
        self, results: Sequence[Sequence[ImageCounts]], categories: Sequence[Category]
    ) -> list[dict[str, float | None]]:
        """PQ with its parts."""
        is_thing = [category.is_thing for category in categories]
        found = [panoptic_quality(sum_counts(exit_, len(is_thing)), is_thing) for exit_ in zip(*results, strict=True)]
        return [{"pq": q.pq, "sq": q.sq, "rq": q.rq, "pq_things": q.things.pq, "pq_stuff": q.stuff.pq} for q in found]

    def evaluation(
        self,
        config: EvaluateConfig,
        dataset: PanopticDataset,
        architecture: Segmentation,
        *,
        exit_metrics: bool,
    ) -> "PanopticEvaluation":
        """PQ, mIoU and the AP of masks."""
        from ecocli.tasks.panoptic_evaluation import PanopticEvaluation

        return PanopticEvaluation(config, dataset, architecture, exit_metrics=exit_metrics)

    def read_results(self, images: "pa.Table", num_exits: int, num_classes: int) -> CountTable:
        """Panoptic counts."""
        from ecocli.artifacts.count_columns import read_counts

        return read_counts(images, num_exits, num_classes)

    def official_quality(self, dataset: PanopticDataset, predictions: Path) -> dict[str, float | None]:
        """PQ with its parts."""
        from ecocli.scoring.official_check import official_quality
        from ecocli.scoring.predictions_file import FOLDER_NAME

        return official_quality(dataset, predictions, predictions.parent / FOLDER_NAME)

    def pictures(self, architecture: Segmentation, categories: Sequence[Category]) -> "PanopticPictures":
        """Coloured segments."""
        from ecocli.tasks.panoptic_pictures import PanopticPictures

        return PanopticPictures(architecture, categories)

    def photo_writer(
        self, config: PredictConfig, architecture: Segmentation, categories: Sequence[Category]
    ) -> "PanopticPhotos":
        """Panoptic PNGs and overlays."""
        from ecocli.tasks.panoptic_photos import PanopticPhotos

        return PanopticPhotos(config, architecture, categories)

    def check(
        self, dataset: PanopticDataset, *, sample: int | None, processes: int, advance: Callable[[int], None]
    ) -> "SplitReport":
        """Check images and segments."""
        from ecocli.data.checking import check_image, check_split, panoptic_notes

        return check_split(
            dataset, check=check_image, notes=panoptic_notes, sample=sample, processes=processes, advance=advance
        )

    def timed_post_processing(
        self, architecture: Segmentation, padded: Size, original: Size
    ) -> "Callable[[Mapping[str, Tensor]], None]":
        """Panoptic merging with a typical number of confident queries, whatever the network says about noise."""
        from ecocli.inference.loading import panoptic_rule
        from ecocli.inference.postprocess import Geometry, panoptic_inference

        K = architecture.num_classes
        rule = panoptic_rule(architecture, [(index + 1, True) for index in range(K)])

        def post_process(final: "Mapping[str, Tensor]") -> None:
            logits = final["pred_logits"][-1].new_zeros(final["pred_logits"].shape[-2:])
            logits[:, K] = 20.0
            for query in range(min(_CONFIDENT_QUERIES, len(logits))):
                logits[query, query % K] = 40.0
            for masks in final["pred_masks"][-1]:
                panoptic_inference(logits, masks, Geometry(padded, padded, original), rule)

        return post_process

    def annotated(self, categories: Sequence[Category]) -> tuple[Category, ...]:
        """All of them."""
        return tuple(categories)

    def published_categories(
        self, said: str | None, architecture: Segmentation, labels: Sequence[str]
    ) -> tuple[tuple[Category, ...], ResizeConfig]:
        """Tables by the number of classes, or an annotation file."""
        from ecocli.tasks.published import panoptic_categories

        return panoptic_categories(said, architecture.num_classes, labels)
