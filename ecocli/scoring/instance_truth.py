"""True instances from COCO's instance annotations, which Mask2Former's AP is measured against where they exist.

Unlike the things of a panoptic map, these masks may overlap and come with areas of their own. Annotations of images
outside the data set are left out.
"""

from typing import Any

from pycocotools import mask as coco_mask

from ecocli.data.coco_file import ANNOTATION_LIMIT_BYTES
from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import DataError
from ecocli.metrics.instance import Rle, TrueInstance
from ecocli.runtime.formats import read_json


def read_instance_truth(dataset: PanopticDataset) -> tuple[tuple[TrueInstance, ...], ...] | None:
    """Read the true instances of every image, in the order of the data set; None where it has no such file.

    Raises:
        DataError: The file is damaged or not about this data set.
    """
    path = dataset.instance_file
    if path is None:
        return None
    try:
        content = read_json(path, ANNOTATION_LIMIT_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(
            f"The instance annotations {path} cannot be read ({error}). AP is measured against them because they lie "
            "there: extract them again, remove them to measure AP against the panoptic maps, or leave AP out "
            "(--metrics miou)."
        ) from error
    classes = {category.id: rank for rank, category in enumerate(dataset.categories) if category.is_thing}
    position_of = {dataset.json_image_id(record): position for position, record in enumerate(dataset.records)}
    sizes = [(record.height, record.width) for record in dataset.records]
    found: list[list[TrueInstance]] = [[] for _ in sizes]
    try:
        lacking = position_of.keys() - {image["id"] for image in content["images"]}
        if lacking:
            first = min(lacking, key=position_of.__getitem__)
            raise DataError(
                f"The instance annotations {path} lack {len(lacking)} of {len(sizes)} images of the {dataset.split} "
                f"split of {dataset.name}, the first is {first}. Both files must come from the same release."
            )
        for entry in content["annotations"]:
            position = position_of.get(entry["image_id"])
            if position is not None:
                found[position].append(_instance(entry, sizes[position], classes))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"The instance annotations {path} do not have COCO's format or other categories than {dataset.name} "
            f"({type(error).__name__}: {error}). See https://cocodataset.org/#format-data."
        ) from error
    return tuple(tuple(image) for image in found)


def _instance(entry: dict[str, Any], size: tuple[int, int], classes: dict[int, int]) -> TrueInstance:
    return TrueInstance(
        classes[entry["category_id"]],
        _run_lengths(entry["segmentation"], size),
        entry.get("iscrowd", 0) == 1,
        float(entry["area"]),
    )


def _run_lengths(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Bring polygons, plain and packed run lengths into the packed form, as pycocotools does."""
    if isinstance(segmentation, list):
        code: Rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, *size)
    else:
        code = {"size": segmentation["size"], "counts": segmentation["counts"].encode("ascii")}
    return code
