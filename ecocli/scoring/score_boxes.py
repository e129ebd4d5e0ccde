"""Detections of one image at one exit, and what they are worth.

Axes: K classes. Source of the qualities: ``ecocli.metrics.box_matching`` and ``ecocli.losses.set_criterion``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ecocli.artifacts.detection_columns import ImageDetections
from ecocli.config.derive import BoxQualityName
from ecocli.data.box_training import clip_corners
from ecocli.data.boxes import BoxRecord
from ecocli.inference.detections import Detections
from ecocli.inference.predictor import ImagePrediction
from ecocli.losses.boxes import pack_boxes
from ecocli.losses.set_criterion import SetCriterion
from ecocli.metrics.box_matching import TrueBoxes, image_ap, image_box_pq, match_detections, positives


@dataclass(frozen=True, eq=False)
class ScoredBoxes:
    """A prediction with its detections and what they are worth.

    Attributes:
        detections: At the image's original size, by the model's classes.
        counts: What the derived table keeps.
    """

    detections: Detections
    counts: ImageDetections


@dataclass(frozen=True)
class BoxScorer:
    """Scores detections of images against their true boxes.

    Attributes:
        class_index: The model's class of every category id.
    """

    class_index: Mapping[int, int]
    num_classes: int
    quality: BoxQualityName = "ap"

    def truth(self, _dataset: Any, record: BoxRecord) -> TrueBoxes:
        """Take the true boxes of an image by the model's classes."""
        labels = np.array([self.class_index[int(id_)] for id_ in record.category_ids], np.int64)
        return TrueBoxes(labels, record.boxes, record.areas, record.is_crowd)

    def __call__(self, prediction: ImagePrediction, truth: TrueBoxes) -> ScoredBoxes:
        """Score one image at one exit."""
        found = prediction.detections()
        # A class that no category has is nothing the data set's evaluation would look at.
        known = np.isin(found.class_index, list(self.class_index.values()))
        labels, scores, boxes = found.class_index[known], found.score[known], found.boxes[known]
        matched, counts = match_detections(labels, scores, boxes, truth), positives(truth, self.num_classes)
        if self.quality == "ap":
            quality = image_ap(matched, counts)
        elif self.quality == "box_pq":
            quality = image_box_pq(labels, scores, boxes, truth)
        else:
            quality = -self._loss(prediction, truth)
        return ScoredBoxes(Detections(labels, scores, boxes), ImageDetections(quality, matched, counts))

    def _loss(self, prediction: ImagePrediction, truth: TrueBoxes) -> float:
        """The set loss of the final decoder layer on this image alone."""
        height, width = prediction.geometry.original_size
        own = ~truth.is_crowd
        corners = np.concatenate((truth.boxes[own, :2], truth.boxes[own, :2] + truth.boxes[own, 2:]), axis=1)
        corners = clip_corners(corners, (height, width))
        kept = ((corners[:, 2:] - corners[:, :2]) > 0).all(axis=1)
        corners = corners[kept] / (width, height, width, height)
        centred = np.concatenate(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), axis=1)
        targets = pack_boxes(
            [torch.from_numpy(truth.class_index[own][kept])], [torch.from_numpy(centred.astype(np.float32))]
        )
        out = SetCriterion(self.num_classes)(
            prediction.pred_logits.cpu()[None, None], prediction.regions.cpu()[None, None], targets, torch.ones(1)
        )
        return float(out.total)
