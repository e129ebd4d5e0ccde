"""Quality of every exit and the gate's features, for each image of a batch: the rows of the derived table.

Axes: E exits, K classes, C channels. Source: step B of ECO-M2F (arXiv 2404.15244). Unlike the paper, which keeps one
quality per image and exit, the counts behind it are kept too, so that the data set's PQ of any choice of exits is
arithmetic. Backbone and encoder run once, the decoder once per exit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Int32

from ecocli.config.fit_gate import FeatureName
from ecocli.data.batching import ImageBatch
from ecocli.errors import DataError
from ecocli.inference.postprocess import PanopticRule, PredictedSegment
from ecocli.inference.predictor import ImagePrediction, predict_exits
from ecocli.metrics.panoptic_quality import ImageCounts, count_panoptic_image, image_pq
from ecocli.model.contracts import ExitModel
from ecocli.model.gate import pool_features
from ecocli.scoring.batches import Size, TruePanoptic


@dataclass(frozen=True, eq=False)
class DerivedRow:
    """What the derived table keeps of one image.

    Attributes:
        original_size: Height and width on disk, in pixels.
        padded_size: Height and width of the network's input, in pixels.
        counts: Panoptic counts, or detections, at each exit.
    """

    image_id: str
    original_size: Size
    padded_size: Size
    counts: tuple[Any, ...]
    features: Mapping[FeatureName, Float16[np.ndarray, " _c"]]

    @property
    def pq(self) -> tuple[float | None, ...]:
        """The image's PQ at each exit, None where there is nothing to score."""
        return tuple(image_pq(counts) for counts in self.counts)


@dataclass(frozen=True, eq=False)
class ScoredPrediction:
    """A prediction with its panoptic result and what that is worth.

    Attributes:
        panoptic_map: Predicted segment ids at the original size.
        counts: Panoptic counts against the ground truth.
    """

    prediction: ImagePrediction
    panoptic_map: Int32[np.ndarray, "H W"]
    segments: tuple[PredictedSegment, ...]
    counts: ImageCounts


def score_prediction(prediction: ImagePrediction, truth: TruePanoptic, rule: PanopticRule) -> ScoredPrediction:
    """Post-process one image and count it against its ground truth.

    Raises:
        DataError: The ground truth contradicts itself; the message names the image.
    """
    panoptic_map, segments = prediction.panoptic(rule)
    try:
        counts = count_panoptic_image(panoptic_map, segments, truth.panoptic_map, truth.segments, rule.category_ids)
    except DataError as error:
        raise DataError(f"Image {prediction.image_id}: {error}.") from error
    return ScoredPrediction(prediction, panoptic_map, segments, counts)


@torch.no_grad()
def score_exits(
    model: ExitModel,
    batch: ImageBatch,
    truths: Sequence[TruePanoptic],
    exit_depths: Sequence[int],
    rule: PanopticRule,
    observe: Callable[[int, int, ScoredPrediction], None] | None = None,
) -> list[DerivedRow]:
    """Score every exit on each image of a batch.

    Args:
        model: In evaluation mode, on the batch's device.
        batch: Test images of one padded size.
        exit_depths: Ascending, in encoder layers run.
        observe: Called with position in the batch, exit index and result, for further metrics in the same pass.

    Raises:
        DataError: A ground truth contradicts itself; the message names the image.
    """
    features = model.extract(batch.images, batch.image_sizes)
    pooled = pool_features(features, list(batch.image_sizes))
    rows = {name: values.half().cpu().numpy() for name, values in pooled.items()}
    counts: list[list[ImageCounts]] = [[] for _ in truths]
    for exit_index, predictions in enumerate(predict_exits(model, features, batch, exit_depths)):
        for position, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
            scored = score_prediction(prediction, truth, rule)
            counts[position].append(scored.counts)
            if observe is not None:
                observe(position, exit_index, scored)
    height, width = batch.images.shape[-2:]
    return [
        DerivedRow(
            image_id=image_id,
            original_size=batch.original_sizes[position],
            padded_size=(height, width),
            counts=tuple(counts[position]),
            features={name: values[position] for name, values in rows.items()},
        )
        for position, image_id in enumerate(batch.image_ids)
    ]
