"""Panoptic maps drawn over their images, for a report's examples."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ecocli.config.any_architecture import Segmentation
from ecocli.data.categories import Category
from ecocli.data.panoptic import ImageRecord, PanopticDataset
from ecocli.inference.loading import panoptic_rule
from ecocli.inference.predictor import ImagePrediction
from ecocli.metrics.panoptic_quality import image_pq
from ecocli.reports.overlays import PanopticPicture, draw_overlay
from ecocli.scoring.batches import TruePanoptic, panoptic_truth
from ecocli.scoring.score_exits import score_prediction


class PanopticPictures:
    """Coloured segments with names."""

    def __init__(self, architecture: Segmentation, categories: Sequence[Category]) -> None:
        self._categories = categories
        self._rule = panoptic_rule(architecture, [(category.id, category.is_thing) for category in categories])

    def load_truth(self, dataset: PanopticDataset, record: ImageRecord) -> TruePanoptic:
        """Decode the panoptic map of an image."""
        return panoptic_truth(dataset, record)

    def draw_truth(
        self, image: UInt8[np.ndarray, "H W 3"], truth: TruePanoptic, scale: int
    ) -> tuple[Image.Image, str, str]:
        """Draw the true segments."""
        picture = PanopticPicture(truth.panoptic_map, truth.segments)
        return draw_overlay(image, picture, self._categories, scale), "truth", f"{len(truth.segments)} segments"

    def draw_prediction(
        self, image: UInt8[np.ndarray, "H W 3"], prediction: ImagePrediction, truth: TruePanoptic, scale: int
    ) -> tuple[Image.Image, str]:
        """Draw the predicted segments, and say the image's PQ."""
        scored = score_prediction(prediction, truth, self._rule)
        pq = image_pq(scored.counts)
        overlay = draw_overlay(image, PanopticPicture(scored.panoptic_map, scored.segments), self._categories, scale)
        return overlay, "nothing to score" if pq is None else f"PQ {100 * pq:.1f}"
