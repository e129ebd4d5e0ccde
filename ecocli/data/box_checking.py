"""Checks a detection data set before hours of training: every image, and every box against its image.

Axes: H W pixels. Boxes are checked as annotated, before training clips them at the image's borders.
"""

from collections import Counter
from collections.abc import Iterator

from ecocli.data.boxes import BoxRecord, DetectionDataset
from ecocli.data.checking import ImageCheck, SplitReport, check_picture

_TOLERANCE_PX = 1.0


def check_boxes(dataset: DetectionDataset, record: BoxRecord) -> ImageCheck:
    """Check one image with its boxes."""
    found = check_picture(dataset, record)
    path = dataset.image_path(record)
    rows = list(zip(record.category_ids.tolist(), record.boxes.tolist(), record.areas.tolist(), strict=True))
    faults = [f"{path}: {text}" for _, box, area in rows for text in _check_box(box, area, record)]
    objects = zip(record.category_ids.tolist(), record.is_crowd.tolist(), strict=True)
    repeated = Counter((id_, tuple(box)) for id_, box, _ in rows)
    faults += [
        f"{path}: the box {list(box)} of category {id_} is there {count} times, and only one of them can be found"
        for (id_, box), count in repeated.items()
        if count > 1
    ]
    return ImageCheck([*found.faults, *faults], tuple(objects), is_flat=found.is_flat, is_turned=found.is_turned)


def _check_box(box: list[float], area: float, record: BoxRecord) -> Iterator[str]:
    left, top, width, height = box
    if width <= 0 or height <= 0:
        yield f"the box {box} (x, y, width, height) has no area, so nothing can be trained on it"
        return
    beyond = max(-left, -top, left + width - record.width, top + height - record.height)
    if beyond > _TOLERANCE_PX:
        yield (
            f"the box {box} (x, y, width, height) reaches {beyond:g} pixels beyond the image of {record.width} x "
            f"{record.height}"
        )
    if area > (width + _TOLERANCE_PX) * (height + _TOLERANCE_PX):
        yield f"the box {box} (x, y, width, height) has the annotated area {area:g}, more than the box itself"


def box_notes(dataset: DetectionDataset, report: SplitReport, _repeated: Counter[int]) -> Iterator[str]:
    """Say what is valid, but hardly meant."""
    if not report.segments:
        yield "no image has a box: there is nothing to find"
    elif report.crowds == report.segments:
        yield "every box is a crowd (iscrowd is 1): nothing is left to train on"
    empty = [category.name for category in dataset.categories if not report.category_counts[category.id]]
    if empty and report.segments:
        listed = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        yield f"{len(empty)} of {len(dataset.categories)} categories have no box in the images looked at: {listed}"
