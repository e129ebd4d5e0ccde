"""Exports of drawing tools in small: two photos, a house before sky, and a second house that hides the first in one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 8
SKY, HOUSE = 1, 2
COLORS = {"background": (0, 0, 0), "sky": (128, 0, 0), "house": (0, 0, 128)}
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nsky:128,0,0::\nhouse:0,0,128::\n"


def class_map() -> np.ndarray:
    """Sky above, two houses that do not touch, the lowest row unlabelled."""
    found = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    found[2:5, 1:3] = HOUSE
    found[2:5, 5:8] = HOUSE
    found[5] = 0
    return found


def write_photos(folder: Path, count: int = 2, suffix: str = ".jpg") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"photo{number}{suffix}" for number in range(count)]
    for name in names:
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(folder / name)
    return names


def write_class_masks(root: Path, values: np.ndarray | None = None) -> None:
    """Photos and masks of class indices."""
    (root / "masks").mkdir(parents=True)
    for name in write_photos(root / "photos"):
        Image.fromarray(class_map() if values is None else values).save(root / "masks" / f"{Path(name).stem}.png")


def write_cvat_masks(root: Path, *, labelmap: str = LABELMAP) -> None:
    """CVAT's "Segmentation mask 1.1" with images: the houses are two objects, and so is each half of the sky."""
    for name in ("SegmentationClass", "SegmentationObject"):
        (root / name).mkdir(parents=True)
    (root / "labelmap.txt").write_text(labelmap)
    palette = np.array([COLORS["background"], COLORS["sky"], COLORS["house"]], np.uint8)
    objects = np.zeros((HEIGHT, WIDTH), np.uint8)
    objects[:5, :4], objects[:5, 4:] = 1, 2
    objects[2:5, 1:3], objects[2:5, 5:8] = 3, 4
    for name in write_photos(root / "JPEGImages"):
        Image.fromarray(palette[class_map()]).save(root / "SegmentationClass" / f"{Path(name).stem}.png")
        colors = np.stack([objects * 50, objects * 20, objects], 2).astype(np.uint8)
        Image.fromarray(colors).save(root / "SegmentationObject" / f"{Path(name).stem}.png")


def instance_content(names: list[str], segmentations: list[Any], crowds: tuple[int, ...] = ()) -> dict[str, Any]:
    """COCO's instance format: all segmentations are houses of the first photo, the second one has none."""
    return {
        "images": [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names, 1)],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 7, "segmentation": drawn, "iscrowd": int(n in crowds)}
            for n, drawn in enumerate(segmentations, 1)
        ],
        "categories": [{"id": 7, "name": "house"}],
    }


def write_instances(root: Path, segmentations: list[Any], prefix: str = "", crowds: tuple[int, ...] = ()) -> None:
    """An export with ``images/`` and ``annotations/instances_default.json``, as CVAT's."""
    names = [prefix + name for name in write_photos(root / "images")]
    (root / "annotations").mkdir()
    content = instance_content(names, segmentations, crowds)
    (root / "annotations" / "instances_default.json").write_text(json.dumps(content))
