"""Small panoptic data sets on disk, in COCO's format and in the layouts users have."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ecocli.data.categories import CITYSCAPES, CITYSCAPES_TRAIN_IDS, COCO, Category

HEIGHT, WIDTH = 6, 8


@dataclass
class Scene:
    """One image of a small data set; ``crowd_ids`` are the segment ids with iscrowd 1."""

    image_id: int | str
    id_map: np.ndarray
    category_of: Mapping[int, int]
    crowd_ids: Sequence[int] = ()
    image: np.ndarray = field(default_factory=lambda: np.full((HEIGHT, WIDTH, 3), 90, np.uint8))


def two_halves(image_id: int | str, left: tuple[int, int], right: tuple[int, int]) -> Scene:
    """A scene of two segments, (segment id, category id) each; the upper row stays unlabelled."""
    id_map = np.zeros((HEIGHT, WIDTH), np.int32)
    id_map[1:, : WIDTH // 2] = left[0]
    id_map[1:, WIDTH // 2 :] = right[0]
    return Scene(image_id, id_map, {left[0]: left[1], right[0]: right[1]})


def segment_infos(scene: Scene) -> list[dict[str, Any]]:
    infos = []
    for id_, category in scene.category_of.items():
        rows, columns = np.nonzero(scene.id_map == id_)
        left, top = int(columns.min()), int(rows.min())
        infos.append(
            {
                "id": id_,
                "category_id": category,
                "iscrowd": int(id_ in scene.crowd_ids),
                "area": len(rows),
                "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
            }
        )
    return infos


def category_entries(categories: Sequence[Category]) -> list[dict[str, Any]]:
    return [
        {
            "id": category.id,
            "name": category.name,
            "supercategory": category.supercategory,
            "isthing": int(category.is_thing),
            "color": list(category.color),
        }
        for category in categories
    ]


def save_ids(id_map: np.ndarray, path: Path) -> None:
    """Write an id map as the format says: R + 256 G + 65536 B."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.stack([id_map % 256, id_map // 256 % 256, id_map // 65536], axis=2).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def write_split(
    scenes: Sequence[Scene],
    categories: Sequence[Category],
    images: Path,
    panoptic: Path,
    annotations: Path,
    *,
    image_suffix: str = ".png",
) -> None:
    """Write a split; the annotation list runs the other way than the image list, as it may."""
    image_entries, annotation_entries = [], []
    for scene in scenes:
        stem = f"{scene.image_id:012d}" if isinstance(scene.image_id, int) else scene.image_id
        images.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(images / f"{stem}{image_suffix}")
        save_ids(scene.id_map, panoptic / f"{stem}.png")
        height, width = scene.id_map.shape
        image_entries.append(
            {"id": scene.image_id, "file_name": f"{stem}{image_suffix}", "height": height, "width": width}
        )
        annotation_entries.insert(
            0, {"image_id": scene.image_id, "file_name": f"{stem}.png", "segments_info": segment_infos(scene)}
        )
    content = {
        "images": image_entries,
        "annotations": annotation_entries,
        "categories": category_entries(categories),
    }
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(content))


def write_coco(root: Path, split: str = "val", *, nested_png: bool = False, nested_images: bool = False) -> Path:
    """COCO with three images; returns its folder."""
    base = root / "coco"
    images = base / "images" if nested_images else base
    scenes = [
        two_halves(139, (3226956, 1), (65793, 199)),
        two_halves(42, (7, 17), (8, 193)),
        two_halves(9, (5, 67), (6, 190)),
    ]
    write_split(
        scenes,
        COCO,
        images / f"{split}2017",
        (base / "annotations" if nested_png else base) / f"panoptic_{split}2017",
        base / "annotations" / f"panoptic_{split}2017.json",
        image_suffix=".jpg",
    )
    return base


def write_cityscapes(root: Path, split: str = "val", *, train_ids: bool = False) -> Path:
    """Cityscapes with two images of two cities, written as createPanopticImgs does; returns its folder."""
    base = root / "cityscapes"
    suffix = "_trainId" if train_ids else ""
    categories = CITYSCAPES_TRAIN_IDS if train_ids else CITYSCAPES
    road, car = (0, 13) if train_ids else (7, 26)
    stem = f"cityscapes_panoptic_{split}{suffix}"
    image_entries, annotation_entries = [], []
    for image_id in ("lindau_000001_000019", "aachen_000000_000019"):
        scene = two_halves(image_id, (7, road), (26003, car))
        image = base / "leftImg8bit" / split / image_id.split("_")[0] / f"{image_id}_leftImg8bit.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(image)
        save_ids(scene.id_map, base / "gtFine" / stem / f"{image_id}_gtFine_panoptic.png")
        image_entries.append(
            {
                "id": image_id,
                "file_name": f"{image_id}_gtFine_leftImg8bit.png",
                "height": HEIGHT,
                "width": WIDTH,
            }
        )
        annotation_entries.append(
            {
                "image_id": image_id,
                "file_name": f"{image_id}_gtFine_panoptic.png",
                "segments_info": segment_infos(scene),
            }
        )
    content = {
        "images": image_entries,
        "annotations": annotation_entries,
        "categories": category_entries(categories),
    }
    (base / "gtFine" / f"{stem}.json").write_text(json.dumps(content))
    return base


def write_custom(folder: Path, scenes: Sequence[Scene], categories: Sequence[Category]) -> Path:
    """A data set of the user's own with the split ``val``; returns its TOML file."""
    write_split(scenes, categories, folder / "pictures", folder / "ids", folder / "truth.json")
    path = folder / "mine.toml"
    path.write_text('name = "mine"\n[splits.val]\nimages = "pictures"\nannotations = "truth.json"\npanoptic = "ids"\n')
    return path


def edit_json(path: Path, edit: Any) -> None:
    """Load a JSON file, let ``edit`` change its content in place, and write it back."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
