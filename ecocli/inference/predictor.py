"""Prediction of a batch: at every wanted exit, or each image at the exit its gate chooses.

Axes: B images, E exits, Q queries, K classes. Source: ECO-M2F (arXiv 2404.15244); unlike its release, images of one
batch take different exits, and the backbone and the encoder run once for all exits wanted.

An image's result does not depend on its batch mates: batches hold images of one padded size (see
``ecocli.scoring.batches``), so that the padding an image gets is its own, and no operation mixes images. What
remains is the rounding of matrix products whose kernels depend on the batch size (some 1e-6 in a logit); batches are
therefore formed from the data set alone, never from the number of processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from ecocli.config.fit_gate import FeatureName
from ecocli.data.batching import ImageBatch
from ecocli.errors import ArtifactError
from ecocli.inference.detections import Detections, detect
from ecocli.inference.postprocess import Geometry, PanopticRule, PredictedSegment, panoptic_inference
from ecocli.model.contracts import ExitModel, SharedFeatures
from ecocli.model.gate import Gate, pool_features, select_exit_depth


@dataclass(frozen=True, eq=False)
class ImagePrediction:
    """The network's word on one image at one exit.

    Attributes:
        exit_depth: Encoder layers run.
        pred_logits: Class logits, "no object" last.
        regions: Mask logits at stride 4 of the padded input, or boxes.
    """

    image_id: str
    exit_depth: int
    geometry: Geometry
    pred_logits: Float[Tensor, "Q K1"]
    regions: Float[Tensor, " Q *region"]

    @property
    def pred_masks(self) -> Float[Tensor, "Q h w"]:
        """The mask logits of a segmentation."""
        return self.regions

    def detections(self) -> Detections:
        """Boxes at the original size of the image, of a detection."""
        return detect(self.pred_logits, self.regions, self.geometry.original_size)

    def panoptic(self, rule: PanopticRule) -> tuple[Int32[np.ndarray, "H W"], tuple[PredictedSegment, ...]]:
        """Merge the queries into a panoptic map at the original size."""
        return panoptic_inference(self.pred_logits, self.pred_masks, self.geometry, rule)


@dataclass(frozen=True)
class ExitGate:
    """A fitted gate with all it needs to choose.

    Attributes:
        gate: Pooled features to one score per exit.
        exit_depths: The exits it can choose, ascending, in encoder layers run.
    """

    gate: Gate
    feature: FeatureName
    exit_depths: tuple[int, ...]

    def choose(self, pooled: dict[FeatureName, Float[Tensor, "B _c"]]) -> Int[Tensor, " B"]:
        """Return the exit depth of each image."""
        features = pooled[self.feature]
        if features.shape[1] != self.gate.linear.in_features:
            raise ArtifactError(
                f"The gate reads {self.gate.linear.in_features} values of the feature {self.feature!r}, the parent "
                f"gives {features.shape[1]}. Fit the gate again."
            )
        scores = self.gate(features)
        return select_exit_depth(scores, torch.tensor(self.exit_depths, device=scores.device))


def batch_geometry(batch: ImageBatch) -> list[Geometry]:
    """Return the sizes of each image of a batch."""
    height, width = batch.images.shape[-2:]
    return [
        Geometry((height, width), image_size, original_size)
        for image_size, original_size in zip(batch.image_sizes, batch.original_sizes, strict=True)
    ]


@torch.no_grad()
def predict_exits(
    model: ExitModel, features: SharedFeatures, batch: ImageBatch, exit_depths: Sequence[int]
) -> Iterator[list[ImagePrediction]]:
    """Yield the batch's predictions exit by exit; one exit's masks are in memory at a time.

    Args:
        model: In evaluation mode.
        features: ``model.extract`` of the batch.
        batch: The images, padded alike.
        exit_depths: Ascending, in encoder layers run.
    """
    geometry = batch_geometry(batch)
    for exit_depth, tokens in zip(exit_depths, model.encode(features, exit_depths), strict=True):
        final = model.decode(tokens, features)
        yield [
            ImagePrediction(image_id, exit_depth, geometry[b], final.pred_logits[-1, b], final.regions[-1, b])
            for b, image_id in enumerate(batch.image_ids)
        ]


@torch.no_grad()
def predict_gated(model: ExitModel, gate: ExitGate, batch: ImageBatch) -> list[ImagePrediction]:
    """Predict each image at the exit its gate chooses; images leave the encoder as they are done.

    Args:
        model: In evaluation mode.
        gate: Chooses from pooled features.
        batch: The images, padded alike.
    """
    features = model.extract(batch.images, batch.image_sizes)
    depths = gate.choose(pool_features(features, batch.image_sizes, (gate.feature,)))
    final = model.predict_at(features, depths)
    geometry = batch_geometry(batch)
    return [
        ImagePrediction(image_id, int(depths[b]), geometry[b], final.pred_logits[b], final.regions[b])
        for b, image_id in enumerate(batch.image_ids)
    ]
