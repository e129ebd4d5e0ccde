"""Prediction from Python: ``load`` a model, call it on an image, look at the ``Result``.

    from ecocli import load
    model = load("parent", gate="gate")
    result = model("street.jpg")

Axes: H W pixels of the image as given, K classes. These names are stable; everything else in the package may move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Literal, overload

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8
from numpy.typing import NDArray
from PIL import Image

from ecocli.artifacts.lineage import exit_of, open_gate, parent_of_gate
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.config.any_architecture import require_segmentation
from ecocli.data.categories import Category
from ecocli.data.photos import read_photo
from ecocli.data.pictures import to_rgb
from ecocli.errors import DataError, UsageError
from ecocli.inference.opening import exported_model, open_predictor
from ecocli.inference.photos import PhotoPredictor
from ecocli.inference.postprocess import instance_inference, panoptic_inference, semantic_map
from ecocli.inference.predictor import ImagePrediction
from ecocli.runtime.device import choose_device
from ecocli.runtime.files import user_path

ImageLike = str | PathLike[str] | Image.Image | NDArray[np.uint8]
"""A path, a Pillow image, or an array [H, W, 3] (RGB) or [H, W] (grey) of bytes."""


@dataclass(frozen=True)
class Segment:
    """One segment of the panoptic map.

    Attributes:
        id: Value of its pixels in the map, from 1.
        name: Of its category.
        category_id: The data set's id of its category.
        is_thing: Whether it is one object; a stuff segment holds all of its class.
        score: Class probability, 0..1; of a stuff segment the best of its queries.
        area_px: Its pixels.
    """

    id: int
    name: str
    category_id: int
    is_thing: bool
    score: float
    area_px: int


@dataclass(frozen=True)
class Instance:
    """One scored object.

    Attributes:
        category_id: The data set's id of its category.
        score: Class probability x mean mask probability inside the mask, 0..1.
    """

    name: str
    category_id: int
    score: float
    mask: Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class Detection:
    """One scored box of a detector.

    Attributes:
        category_id: The data set's id of its category.
        score: Probability of the category, 0..1.
        box: Left, top, width, height, in pixels of the image.
    """

    name: str
    category_id: int
    score: float
    box: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Result:
    """What a model found in one image; maps are computed when they are asked for.

    A detector has ``detections``; asked for maps or instances, it raises a ``UsageError``.

    Attributes:
        image: The image, upright RGB.
        exit_depth: The exit taken: encoder layers run.
        categories: In the order of the class index.
    """

    image: UInt8[np.ndarray, "H W 3"]
    exit_depth: int
    categories: tuple[Category, ...]
    _prediction: ImagePrediction
    _predictor: PhotoPredictor

    @cached_property
    def _panoptic(self) -> tuple[Int32[np.ndarray, "H W"], tuple[Segment, ...]]:
        p, rule = self._prediction, self._predictor.rule
        id_map, found = panoptic_inference(p.pred_logits, p.pred_masks, p.geometry, rule)
        segments = tuple(
            Segment(s.id, self.categories[s.class_index].name, s.category_id, s.is_thing, s.score, s.area)
            for s in found
        )
        return id_map, segments

    @property
    def panoptic(self) -> Int32[np.ndarray, "H W"]:
        """Id of the segment at every pixel, 0 where there is none."""
        return self._panoptic[0]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of the panoptic map, ids ascending."""
        return self._panoptic[1]

    @cached_property
    def semantic(self) -> Int32[np.ndarray, "H W"]:
        """Category id of the best class at every pixel."""
        p = self._segmentation
        index = semantic_map(p.pred_logits, p.pred_masks, p.geometry).cpu().numpy()
        ids: Int32[np.ndarray, " K"] = np.array([category.id for category in self.categories], np.int32)
        by_pixel: Int32[np.ndarray, "H W"] = ids[index]
        return by_pixel

    @cached_property
    def detections(self) -> tuple[Detection, ...]:
        """Every query of a detector as a box, best first.

        Raises:
            UsageError: It is a segmentation.
        """
        found = self._predictor.detections(self._prediction)
        return tuple(Detection(category.name, category.id, score, box) for category, score, box in found)

    @property
    def _segmentation(self) -> ImagePrediction:
        """The prediction, if it has masks."""
        require_segmentation(self._predictor.architecture, "a map")
        return self._prediction

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        """At most 100 objects, best first; they may overlap."""
        p = self._segmentation
        found = instance_inference(p.pred_logits, p.pred_masks, p.geometry, self._predictor.rule.is_thing)
        masks = found.masks.numpy()
        columns = (found.class_index.tolist(), found.score.tolist(), found.mask_index.tolist())
        return tuple(
            Instance(self.categories[index].name, self.categories[index].id, score, masks[mask])
            for index, score, mask in zip(*columns, strict=True)
        )

    @property
    def class_logits(self) -> Float32[np.ndarray, "Q K1"]:
        """Class logits of the queries, "no object" last."""
        return self._prediction.pred_logits.float().cpu().numpy()

    @property
    def mask_logits(self) -> Float32[np.ndarray, "Q h w"]:
        """Mask logits of the queries at a quarter of the network's input, padding included."""
        return self._segmentation.pred_masks.float().cpu().numpy()

    def overlay(self) -> Image.Image:
        """The image with coloured segments and their names, of a segmentation; small images are enlarged."""
        from ecocli.reports.overlays import PanopticPicture, draw_overlay, drawing_scale

        id_map, found = self._prediction.panoptic(self._predictor.rule)
        return draw_overlay(self.image, PanopticPicture(id_map, found), self.categories, drawing_scale(*id_map.shape))


class Model:
    """A parent, with or without a gate, ready to predict. Made by ``load``."""

    def __init__(self, predictor: PhotoPredictor) -> None:
        self._predictor = predictor

    @property
    def categories(self) -> tuple[Category, ...]:
        """In the order of the class index."""
        return self._predictor.categories

    @overload
    def __call__(self, image: ImageLike) -> Result: ...  # type: ignore[overload-overlap]  # a str is a sequence too

    @overload
    def __call__(self, image: Sequence[ImageLike]) -> list[Result]: ...

    def __call__(self, image: ImageLike | Sequence[ImageLike]) -> Result | list[Result]:
        """Predict one image, or each of a list; what an image gives does not depend on the others.

        Raises:
            DataError: A file is missing or no picture, or an array is no image.
            UsageError: Exported graphs do not take images of this size.
        """
        if isinstance(image, Sequence) and not isinstance(image, str):
            return [self._predict(one) for one in image]
        return self._predict(image)

    def _predict(self, image: ImageLike) -> Result:
        array = _to_array(image)
        prediction = self._predictor.predict(array)
        return Result(array, prediction.exit_depth, self.categories, prediction, self._predictor)


def load(
    parent: str | PathLike[str] | None = None,
    *,
    gate: str | None = None,
    exit: int | None = None,
    beta: float | None = None,
    device: str = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    engine: Literal["torch", "onnxruntime", "openvino"] | None = None,
    threads: int | None = None,
    store: str | PathLike[str] | None = None,
) -> Model:
    """Load a parent from the store, or a folder of graphs that ``eco export`` wrote.

    Args:
        parent: Name or digest of a parent, or the path of a folder of graphs, which brings its gate along. None for
            the gate's parent, without a gate for ``parent``.
        gate: Name or digest of a gate that chooses the exit of each image.
        exit: Encoder layers to run on every image, instead of a gate; the deepest by default.
        beta: Price of compute for a gate that predicts quality; the one it was fitted at by default.
        device: ``auto``, ``cpu`` or ``cuda``; graphs run on the CPU.
        precision: Type of the network's products in torch; a folder of graphs has its own.
        engine: What computes: ``torch`` for parents; ``onnxruntime`` or ``openvino`` for graphs, by default that of
            their format.
        threads: CPU threads of a graph's engine; torch's are those of the process.
        store: Folder of the store; ``ECO_STORE`` or ``.eco`` by default.

    Raises:
        ArtifactError: Something is damaged or does not fit.
        DataError: A folder of graphs is incomplete.
        UsageError: There is no such name, exit, price, device or engine.
    """
    if gate is not None and exit is not None:
        raise UsageError("gate chooses the exit of each image and exit fixes it. Give one of them.")
    if parent is not None and user_path(parent).is_dir():
        if gate is not None or engine == "torch":
            raise UsageError(f"{parent} is a folder of graphs: it brings its gate along, and torch does not run it.")
        return Model(exported_model(user_path(parent), exit, beta, engine=engine)(threads))
    if engine not in (None, "torch"):
        raise UsageError(f"{engine} runs exported graphs. Write them with `eco export` and give their folder.")
    opened = Store.default() if store is None else Store(user_path(store))
    gate_digest = None if gate is None else resolve(opened, gate, "gate")
    if parent is None and gate_digest is not None:
        parent_digest = parent_of_gate(opened, gate_digest)
    else:
        parent_digest = resolve(opened, "parent" if parent is None else str(parent), "parent")
    try:
        chosen = choose_device(device, 0)
    except ValueError as error:
        raise UsageError(str(error)) from error
    artifact = opened.get(parent_digest, ParentManifest)
    depth = exit_of(artifact.manifest, exit)
    fitted = None if gate_digest is None else open_gate(opened, gate_digest, artifact, beta)
    return Model(open_predictor(artifact, fitted, depth, chosen, beta=beta, precision=precision))


def _to_array(image: ImageLike) -> UInt8[np.ndarray, "H W 3"]:
    if isinstance(image, str | PathLike):
        return read_photo(user_path(image))
    if isinstance(image, Image.Image):
        return np.array(to_rgb(image))
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise DataError(
            f"An array of type {image.dtype} and shape {list(image.shape)} is no image. Expected bytes, [H, W, 3] in "
            "the order red, green, blue, or [H, W]."
        )
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
