"""Prediction of one picture at a time, of any size, at a fixed exit or at the exit its gate chooses.

Axes: H W pixels. Each picture is padded as if alone, so its result does not depend on others, and memory does not grow
with their number.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import UInt8

from ecocli.config.any_architecture import AnyArchitecture, require_segmentation
from ecocli.config.dataset import ResizeConfig
from ecocli.data.batching import make_batch
from ecocli.data.categories import Category
from ecocli.data.detection import class_indices
from ecocli.data.transforms import resize_image, shortest_edge_size
from ecocli.errors import UsageError
from ecocli.inference.loading import panoptic_rule
from ecocli.inference.postprocess import PanopticRule
from ecocli.inference.predictor import ExitGate, ImagePrediction, predict_exits, predict_gated
from ecocli.model.contracts import ExitModel

KEPT_PIXELS = 1 << 22
"""Largest picture that a model without a size rule takes as it is."""


@dataclass(frozen=True)
class PhotoPredictor:
    """A model with all that turns a picture into predictions.

    Attributes:
        model: In evaluation mode.
        gate: Chooses the exit; None for the fixed one.
        exit_depth: Encoder layers run where there is no gate.
        categories: In the order of the class index.
    """

    model: ExitModel
    gate: ExitGate | None
    exit_depth: int
    architecture: AnyArchitecture
    resize: ResizeConfig
    categories: tuple[Category, ...]
    device: str

    @cached_property
    def rule(self) -> PanopticRule:
        """Kinds of the classes and thresholds of a segmentation.

        Raises:
            UsageError: It is a detector.
        """
        architecture = require_segmentation(self.architecture, "a panoptic map")
        return panoptic_rule(architecture, [(category.id, category.is_thing) for category in self.categories])

    def detections(self, prediction: ImagePrediction) -> list[tuple[Category, float, tuple[float, ...]]]:
        """Category, score and box (left, top, width, height, in pixels) of each query of a detector, best first.

        Raises:
            UsageError: It is a segmentation.
        """
        if prediction.regions.ndim != 2:
            raise UsageError(f"{self.architecture.name} is a segmentation, which has no boxes; ask for its instances.")
        found, indices = prediction.detections(), class_indices(self.categories, self.architecture.num_classes)
        by_class = {indices[category.id]: category for category in self.categories}
        columns = (found.class_index.tolist(), found.score.tolist(), found.boxes.tolist())
        # A class that no category has is none.
        known = [(by_class[c], s, tuple(box)) for c, s, box in zip(*columns, strict=True) if c in by_class]
        return sorted(known, key=lambda one: -one[1])

    def predict(self, image: UInt8[np.ndarray, "H W 3"], image_id: str = "") -> ImagePrediction:
        """Run the network on one RGB picture."""
        height, width = image.shape[:2]
        if self.resize.short_edge_px is not None:
            size = shortest_edge_size(height, width, self.resize.short_edge_px, self.resize.long_edge_px)
        else:
            # The network's memory grows with its input, and a model without a size rule was trained on small images.
            shrink = min(1.0, (KEPT_PIXELS / (height * width)) ** 0.5)
            size = int(height * shrink), int(width * shrink)
        # A very long and thin picture would shrink to nothing.
        resized = resize_image(image, (max(1, size[0]), max(1, size[1])))
        return self.run(resized, (height, width), image_id)

    def run(
        self, resized: UInt8[np.ndarray, "h w 3"], original_size: tuple[int, int], image_id: str = ""
    ) -> ImagePrediction:
        """Run the network on one RGB picture that has its size already; results have the original size."""
        batch = make_batch(
            [resized],
            self.model.pixel_mean,
            self.model.pixel_std,
            self.model.size_divisor,
            original_sizes=[original_size],
            image_ids=[image_id],
            device=self.device,
        )
        if self.gate is not None:
            return predict_gated(self.model, self.gate, batch)[0]
        features = self.model.extract(batch.images, batch.image_sizes)
        return next(predict_exits(self.model, features, batch, (self.exit_depth,)))[0]
