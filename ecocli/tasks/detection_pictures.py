"""Boxes drawn over their images, for a report's examples."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ecocli.config.detr import DetrConfig
from ecocli.data.boxes import BoxRecord, DetectionDataset
from ecocli.data.categories import Category
from ecocli.data.detection import class_indices
from ecocli.inference.predictor import ImagePrediction
from ecocli.metrics.box_matching import TrueBoxes
from ecocli.reports.box_overlays import DRAWN_SCORE, DrawnBox, draw_boxes
from ecocli.scoring.score_boxes import BoxScorer


class DetectionPictures:
    """Framed boxes with names and scores."""

    def __init__(self, architecture: DetrConfig, categories: Sequence[Category]) -> None:
        self._scorer = BoxScorer(class_indices(categories, architecture.num_classes), architecture.num_classes)
        self._categories = {self._scorer.class_index[category.id]: category for category in categories}

    def load_truth(self, dataset: DetectionDataset, record: BoxRecord) -> TrueBoxes:
        """Take the true boxes of an image."""
        return self._scorer.truth(dataset, record)

    def draw_truth(
        self, image: UInt8[np.ndarray, "H W 3"], truth: TrueBoxes, scale: int
    ) -> tuple[Image.Image, str, str]:
        """Draw the true boxes."""
        labels = truth.class_index.tolist()
        boxes = [
            DrawnBox(tuple(box), self._categories[label])
            for box, label in zip(truth.boxes.tolist(), labels, strict=True)
        ]
        return draw_boxes(image, boxes, scale), "truth", "1 box" if len(boxes) == 1 else f"{len(boxes)} boxes"

    def draw_prediction(
        self, image: UInt8[np.ndarray, "H W 3"], prediction: ImagePrediction, truth: TrueBoxes, scale: int
    ) -> tuple[Image.Image, str]:
        """Draw the detections that are more likely right than wrong, and say the image's AP."""
        scored = self._scorer(prediction, truth)
        found, quality = scored.detections, scored.counts.quality
        columns = (found.boxes.tolist(), found.class_index.tolist(), found.score.tolist())
        boxes = [
            DrawnBox(tuple(box), self._categories[label], score)
            for box, label, score in zip(*columns, strict=True)
            if score > DRAWN_SCORE
        ]
        return draw_boxes(image, boxes, scale), "nothing to score" if np.isnan(quality) else f"AP {100 * quality:.1f}"
