"""What `eco predict` writes of a segmentation: panoptic PNGs with one JSON file, overlays, semantic maps, instances."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ecocli.config.any_architecture import Segmentation
from ecocli.config.predict import PredictConfig
from ecocli.data.categories import Category
from ecocli.data.panoptic import encode_id_map
from ecocli.data.transforms import resize_id_map, resize_image
from ecocli.inference.coco_output import category_entries, category_map, instance_entries, segment_entries
from ecocli.inference.loading import panoptic_rule
from ecocli.inference.postprocess import instance_inference, semantic_map
from ecocli.inference.predictor import ImagePrediction
from ecocli.reports.overlays import PanopticPicture, draw_overlay, drawing_scale
from ecocli.tasks.photos import Photo, PhotoResult, overlay_size, save_bytes, save_picture

INSTANCES_JSON = "instances.json"


class PanopticPhotos:
    """Writes segmentations."""

    found_name = "segments"
    main_name = "panoptic.json"

    def __init__(self, config: PredictConfig, architecture: Segmentation, categories: Sequence[Category]) -> None:
        self._config, self._categories = config, categories
        self._rule = panoptic_rule(architecture, [(category.id, category.is_thing) for category in categories])

    def write(self, photo: Photo, prediction: ImagePrediction) -> PhotoResult:
        """Write the files of one picture."""
        config, out, name = self._config, photo.out, photo.name
        logits, masks, geometry = prediction.pred_logits, prediction.pred_masks, prediction.geometry
        panoptic_map, segments = prediction.panoptic(self._rule)
        height, width = panoptic_map.shape
        overlay = semantic = None
        if config.overlays:
            size = overlay_size(height, width)
            picture = PanopticPicture(resize_id_map(panoptic_map, size), segments)
            drawn = draw_overlay(resize_image(photo.pixels, size), picture, self._categories, drawing_scale(*size))
            overlay = save_picture(drawn, out / "overlays" / f"{name}.png")
        if config.semantic:
            classes = semantic_map(logits, masks, geometry).cpu().numpy()
            mapped = Image.fromarray(category_map(classes, self._categories))
            semantic = save_picture(mapped, out / "semantic" / f"{name}.png")
        instances: list[dict[str, object]] = []
        if config.instances:
            found = instance_inference(logits, masks, geometry, self._rule.is_thing, config.max_instances)
            instances = instance_entries(photo.image_id, found, self._categories)
        panoptic = save_picture(encode_id_map(panoptic_map), out / "panoptic" / f"{name}.png")
        return PhotoResult(
            image_id=photo.image_id,
            source=photo.source,
            exit_depth=prediction.exit_depth,
            height=height,
            width=width,
            files={"panoptic": panoptic, "overlay": overlay, "semantic": semantic},
            found=tuple(segment_entries(panoptic_map, segments)),
            instances=tuple(instances),
        )

    def write_json(self, out: Path, results: Sequence[PhotoResult]) -> None:
        """Write COCO's panoptic format, and instance results if asked for."""
        content: dict[str, object] = {
            "images": [photo.image_entry for photo in results],
            "annotations": [
                {
                    "image_id": photo.image_id,
                    "file_name": Path(str(photo.files["panoptic"])).name,
                    "segments_info": list(photo.found),
                    "exit_depth": photo.exit_depth,
                }
                for photo in results
            ],
            "categories": category_entries(self._categories),
        }
        save_bytes(out / self.main_name, json.dumps(content, indent=1).encode())
        if self._config.instances:
            rows = [entry for photo in results for entry in photo.instances]
            save_bytes(out / INSTANCES_JSON, json.dumps(rows).encode())
