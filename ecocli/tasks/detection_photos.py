"""What `eco predict` writes of a detector: COCO's results, the images they are about, and overlays.

``images.json`` lists images and categories in COCO's instance format without annotations, so that
``COCO("images.json").loadRes("detections.json")`` of pycocotools reads both.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ecocli.config.detr import DetrConfig
from ecocli.config.predict import PredictConfig
from ecocli.data.categories import Category
from ecocli.data.detection import class_indices
from ecocli.data.transforms import resize_image
from ecocli.inference.coco_output import category_entries, detection_entries
from ecocli.inference.predictor import ImagePrediction
from ecocli.reports.box_overlays import DRAWN_SCORE, DrawnBox, draw_boxes
from ecocli.reports.overlays import drawing_scale
from ecocli.tasks.photos import Photo, PhotoResult, overlay_size, save_bytes, save_picture

IMAGES_JSON = "images.json"


class DetectionPhotos:
    """Writes detections: every query's, as COCO's evaluation wants them."""

    found_name = "detections"
    main_name = "detections.json"

    def __init__(self, config: PredictConfig, architecture: DetrConfig, categories: Sequence[Category]) -> None:
        self._config, self._categories = config, categories
        indices = class_indices(categories, architecture.num_classes)
        self._by_class = {indices[category.id]: category for category in categories}

    def write(self, photo: Photo, prediction: ImagePrediction) -> PhotoResult:
        """Write the overlay of one picture."""
        found = prediction.detections()
        # A class that no category has is none.
        known = [place for place, label in enumerate(found.class_index.tolist()) if label in self._by_class]
        categories = [self._by_class[label] for label in found.class_index[known].tolist()]
        scores, boxes = found.score[known], found.boxes[known]
        height, width = photo.pixels.shape[:2]
        overlay = None
        if self._config.overlays:
            size = overlay_size(height, width)
            ratios = boxes * (size[1] / width, size[0] / height, size[1] / width, size[0] / height)
            drawn = [
                DrawnBox(tuple(box), category, score)
                for box, category, score in zip(ratios.tolist(), categories, scores.tolist(), strict=True)
                if score > DRAWN_SCORE
            ]
            picture = draw_boxes(resize_image(photo.pixels, size), drawn, drawing_scale(*size))
            overlay = save_picture(picture, photo.out / "overlays" / f"{photo.name}.png")
        ids = [category.id for category in categories]
        entries = detection_entries([photo.image_id] * len(ids), ids, scores, boxes)
        return PhotoResult(
            image_id=photo.image_id,
            source=photo.source,
            exit_depth=prediction.exit_depth,
            height=height,
            width=width,
            files={"overlay": overlay},
            found=tuple(entries),
        )

    def write_json(self, out: Path, results: Sequence[PhotoResult]) -> None:
        """Write COCO's results, and what their ids mean."""
        save_bytes(out / self.main_name, json.dumps([entry for photo in results for entry in photo.found]).encode())
        content = {
            "images": [{**photo.image_entry, "exit_depth": photo.exit_depth} for photo in results],
            "annotations": [],
            "categories": category_entries(self._categories),
        }
        save_bytes(out / IMAGES_JSON, json.dumps(content, indent=1).encode())
