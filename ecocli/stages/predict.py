"""Predictions for a user's own images: panoptic PNGs with one JSON file, overlays, semantic maps, instances.

Inputs: ``parent``; ``gate``, optional. Nothing goes into the store. Processes share the images; a file that cannot be
read is reported and left out.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from ecocli.artifacts.lineage import exit_of, open_gate
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.config.predict import PredictConfig
from ecocli.data.categories import Category
from ecocli.data.panoptic import encode_id_map
from ecocli.data.photos import find_photos, read_photo
from ecocli.data.transforms import resize_id_map, resize_image
from ecocli.errors import DataError, InterruptedRunError
from ecocli.inference.coco_output import category_entries, category_map, instance_entries, segment_entries
from ecocli.inference.opening import exported_model, open_predictor
from ecocli.inference.photos import PhotoPredictor
from ecocli.inference.postprocess import instance_inference, semantic_map
from ecocli.reports.overlays import PanopticPicture, draw_overlay, drawing_scale
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import storage_errors, user_path, write_bytes

STAGE = "predict"
PANOPTIC_JSON = "panoptic.json"
INSTANCES_JSON = "instances.json"
# Names and outlines are readable at this size, and drawing stays quick.
_OVERLAY_PX = 1600
_ANOTHER_FOLDER = "name another folder with --out"


@dataclass(frozen=True)
class PhotoResult:
    """What was written for one image.

    Attributes:
        image_id: Position among the images found, from 1.
        source: The image.
        exit_depth: Encoder layers run.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        segments: Entries of ``segments_info``.
        panoptic: The panoptic PNG.
        overlay: The overlay, if asked for.
        semantic: The semantic PNG, if asked for.
        instances: Instance results, if asked for.
    """

    image_id: int
    source: Path
    exit_depth: int
    height: int
    width: int
    segments: tuple[dict[str, object], ...]
    panoptic: Path
    overlay: Path | None
    semantic: Path | None
    instances: tuple[dict[str, object], ...]


@dataclass(frozen=True)
class PredictReport:
    """What a run has done.

    Attributes:
        out: The folder.
        photos: Results in the order of the images.
        failures: Message for every image that could not be read.
        found: Number of images asked for.
    """

    out: Path
    photos: tuple[PhotoResult, ...]
    failures: tuple[str, ...]
    found: int

    def check(self) -> None:
        """Raise for what was left out, once everything else is written and printed.

        Raises:
            DataError: Some image could not be read.
            InterruptedRunError: A signal stopped the run before the last image.
        """
        if len(self.photos) + len(self.failures) < self.found:
            raise InterruptedRunError(
                f"Stopped after {len(self.photos)} of {self.found} images; their results are in {self.out}. Run the "
                "same command again for all of them."
            )
        if self.failures:
            raise DataError(
                f"{len(self.failures)} of {self.found} images could not be read and were left out. "
                + " ".join(self.failures)
            )


@dataclass(frozen=True)
class PredictPlan:
    """What is to be predicted with what, all of it found to fit together.

    Attributes:
        paths: The images.
        open_model: Makes the model ready.
    """

    paths: tuple[Path, ...]
    open_model: Callable[[Runtime], PhotoPredictor]


def plan(config: PredictConfig, inputs: Mapping[str, str], store: Store) -> PredictPlan:
    """Open what is needed, and refuse what the run would refuse.

    Args:
        config: What to predict and write.
        inputs: Digest of the ``parent``, and of the ``gate`` if it shall choose exits; none for exported graphs.
        store: Where they are.

    Raises:
        ArtifactError: Parent, gate or plan of the graphs are damaged or do not fit.
        DataError: There is no image, or no folder of graphs.
        UsageError: There is no such exit, or the gate cannot choose at this price.
    """
    if config.exported is not None:
        opened = exported_model(
            Path(config.exported), config.exit_depth, config.beta, engine=config.engine, resize=config.test_resize
        )
        return PredictPlan(tuple(find_photos(config.images)), lambda runtime: opened(runtime.threads))
    parent = store.get(inputs["parent"], ParentManifest)
    exit_depth = exit_of(parent.manifest, config.exit_depth)
    gate = open_gate(store, inputs["gate"], parent, config.beta) if "gate" in inputs else None

    def open_model(runtime: Runtime) -> PhotoPredictor:
        return open_predictor(
            parent,
            gate,
            exit_depth,
            runtime.device,
            beta=config.beta,
            precision=config.precision,
            compile_warning=runtime.log.warning if config.execution.compile else None,
            resize=config.test_resize,
        )

    return PredictPlan(tuple(find_photos(config.images, user_path(config.out))), open_model)


def run(config: PredictConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> PredictReport:
    """Predict images and write the results.

    Args:
        config: What to predict and write.
        inputs: Digest of the ``parent``, and of the ``gate`` if it shall choose exits; empty for exported graphs.
        store: Where they are.
        runtime: Where and with whom to run.

    Returns:
        What was written; its ``check`` raises for what was left out.

    Raises:
        ArtifactError: Parent, gate or graphs are damaged or do not fit.
        DataError: There is no image, or the folder of graphs is incomplete.
        UsageError: The parent has no such exit, or the folder cannot be written.
    """
    planned = plan(config, inputs, store)
    paths, names = planned.paths, unique_names(planned.paths)
    predictor = planned.open_model(runtime)
    out, world = user_path(config.out), runtime.world
    mine = range(world.rank, len(paths), world.world_size)
    photos: list[PhotoResult] = []
    failures: list[tuple[int, str]] = []
    with runtime.progress.task("predicting", total=len(mine), unit="image") as task:
        for index in mine:
            if runtime.stop.requested:
                break
            try:
                image = read_photo(paths[index], config.max_pixels)
            except DataError as error:
                runtime.log.error("%s It is left out.", error)
                failures.append((index, str(error)))
            else:
                with storage_errors(out, _ANOTHER_FOLDER):
                    photos.append(_predict_photo(config, predictor, image, index + 1, paths[index], out, names[index]))
            task.advance()
    gathered = world.gather_objects((photos, failures))
    everything = sorted((photo for part, _ in gathered for photo in part), key=lambda photo: photo.image_id)
    messages = tuple(text for _, text in sorted(failure for _, part in gathered for failure in part))
    report = PredictReport(out, tuple(everything), messages, len(paths))
    if world.is_main and report.photos:
        with storage_errors(out, _ANOTHER_FOLDER):
            _write_json_files(config, report, predictor.categories)
    return report


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A file name without suffix for every image; equal stems get numbers."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


def _predict_photo(
    config: PredictConfig,
    predictor: PhotoPredictor,
    image: UInt8[np.ndarray, "H W 3"],
    image_id: int,
    source: Path,
    out: Path,
    name: str,
) -> PhotoResult:
    prediction = predictor.predict(image, str(image_id))
    logits, masks, geometry = prediction.pred_logits, prediction.pred_masks, prediction.geometry
    panoptic_map, segments = prediction.panoptic(predictor.rule)
    overlay = semantic = None
    if config.overlays:
        small, ids = _shrink(image, panoptic_map)
        drawn = draw_overlay(small, PanopticPicture(ids, segments), predictor.categories, drawing_scale(*ids.shape))
        overlay = _save(drawn, out / "overlays" / f"{name}.png")
    if config.semantic:
        classes = semantic_map(logits, masks, geometry).cpu().numpy().astype(np.int32)
        semantic = _save(Image.fromarray(category_map(classes, predictor.categories)), out / "semantic" / f"{name}.png")
    instances: list[dict[str, object]] = []
    if config.instances:
        found = instance_inference(logits, masks, geometry, predictor.rule.is_thing, config.max_instances)
        instances = instance_entries(image_id, found, predictor.categories)
    return PhotoResult(
        image_id=image_id,
        source=source,
        exit_depth=prediction.exit_depth,
        height=image.shape[0],
        width=image.shape[1],
        segments=tuple(segment_entries(panoptic_map, segments)),
        panoptic=_save(encode_id_map(panoptic_map), out / "panoptic" / f"{name}.png"),
        overlay=overlay,
        semantic=semantic,
        instances=tuple(instances),
    )


def _shrink(
    image: UInt8[np.ndarray, "H W 3"], panoptic_map: Int32[np.ndarray, "H W"]
) -> tuple[UInt8[np.ndarray, "h w 3"], Int32[np.ndarray, "h w"]]:
    height, width = panoptic_map.shape
    scale = min(1.0, _OVERLAY_PX / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return resize_image(image, size), resize_id_map(panoptic_map, size)


def _write_json_files(config: PredictConfig, report: PredictReport, categories: Sequence[Category]) -> None:
    content: dict[str, object] = {
        "images": [
            {"id": photo.image_id, "file_name": str(photo.source), "height": photo.height, "width": photo.width}
            for photo in report.photos
        ],
        "annotations": [
            {
                "image_id": photo.image_id,
                "file_name": photo.panoptic.name,
                "segments_info": list(photo.segments),
                "exit_depth": photo.exit_depth,
            }
            for photo in report.photos
        ],
        "categories": category_entries(categories),
    }
    _write(report.out / PANOPTIC_JSON, json.dumps(content, indent=1).encode())
    if config.instances:
        rows = [entry for photo in report.photos for entry in photo.instances]
        _write(report.out / INSTANCES_JSON, json.dumps(rows).encode())


def _save(picture: Image.Image, path: Path) -> Path:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    _write(path, buffer.getvalue())
    return path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content, path.parent, otherwise=_ANOTHER_FOLDER)
