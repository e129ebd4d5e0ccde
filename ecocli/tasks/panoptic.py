"""Panoptic segmentation."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import BoxQualityName, QualityName, TaskName
from ecocli.data.categories import Category
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import PanopticDataset
from ecocli.metrics.panoptic_quality import ImageCounts

if TYPE_CHECKING:
    from ecocli.inference.predictor import ImagePrediction
    from ecocli.scoring.batches import TruePanoptic, TruthLoader
    from ecocli.scoring.score_exits import ScoredPrediction
    from ecocli.scoring.score_stream import Score
    from ecocli.training.batches import SampleSource


class PanopticTask:
    """Panoptic maps, judged by PQ."""

    name: TaskName = "panoptic"

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
        self, architecture: ArchitectureConfig, categories: Sequence[Category], quality: BoxQualityName
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
        from ecocli.artifacts.derived_table import panoptic_columns

        return panoptic_columns(results)
