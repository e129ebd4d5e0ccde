"""Checks a data set before hours of training: every file, every id, every area and box.

Axes: H W pixels. A check goes further than loading: it counts the pixels of every segment, because panoptic quality
takes the true areas from the JSON file, and a wrong one gives IoUs above 1.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocli.data.images import ImageDataset, ImageEntry
from ecocli.data.panoptic import ImageRecord, PanopticDataset, Segment
from ecocli.data.pictures import read_orientation
from ecocli.data.workers import worker_pool
from ecocli.errors import DataError

_CHUNK = 32
_MIN_IMAGES_FOR_PROCESSES = 256
_BOX_TOLERANCE_PX = 1


@dataclass(frozen=True)
class Fault:
    """One thing wrong.

    Attributes:
        image_id: Image it belongs to, or empty for a whole split.
        text: What was found and what was expected, with the file's path.
    """

    split: str
    image_id: str
    text: str


@dataclass
class SplitReport:
    """What the check of one split found.

    Attributes:
        checked: Number of images looked at.
        segments: Number of their segments or boxes, crowds included.
        void_ratio: Share of their pixels that is unlabelled.
        notes: What is valid, but hardly meant.
    """

    split: str
    images: int = 0
    checked: int = 0
    segments: int = 0
    crowds: int = 0
    void_ratio: float = 0.0
    category_counts: Counter[int] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_split(
    dataset: ImageDataset,
    *,
    check: "CheckImage",
    notes: "Notes",
    sample: int | None = None,
    processes: int = 1,
    advance: Callable[[int], None] | None = None,
) -> SplitReport:
    """Check a split.

    Args:
        notes: Says what is hardly meant, beside what is said of the images of any data set.
        sample: Check only so many images, spread evenly; all by default.
        advance: Told the number of images just checked.
    """
    report = SplitReport(dataset.split, images=len(dataset))
    wanted = len(dataset) if sample is None else min(sample, len(dataset))
    indices = [position * len(dataset) // wanted for position in range(wanted)]
    chunks = [indices[start : start + _CHUNK] for start in range(0, wanted, _CHUNK)]
    void_px = total_px = 0
    flat: list[str] = []
    turned: list[str] = []
    repeated: Counter[int] = Counter()
    stuff = {category.id for category in dataset.categories if not category.is_thing}
    with _mapper(dataset, check, processes if wanted >= _MIN_IMAGES_FOR_PROCESSES else 1) as map_chunks:
        for chunk, results in zip(chunks, map_chunks(chunks), strict=True):
            for index, found in zip(chunk, results, strict=True):
                record = dataset.records[index]
                flat += [record.file_name] if found.is_flat else []
                turned += [record.file_name] if found.is_turned else []
                counts = Counter(id_ for id_, is_crowd in found.objects if not is_crowd)
                repeated.update(id_ for id_, count in counts.items() if count > 1 and id_ in stuff)
                report.checked += 1
                report.segments += len(found.objects)
                report.crowds += sum(is_crowd for _, is_crowd in found.objects)
                report.category_counts.update(id_ for id_, _ in found.objects)
                report.faults += [Fault(dataset.split, record.image_id, text) for text in found.faults]
                void_px += found.void_px
                total_px += record.height * record.width
            if advance is not None:
                advance(len(chunk))
    report.void_ratio = void_px / total_px if total_px else 0.0
    report.notes = [*notes(dataset, report, repeated), *_image_notes(flat, turned)]
    return report


def _image_notes(flat: list[str], turned: list[str]) -> Iterator[str]:
    if flat:
        yield f"{len(flat)} images have one colour everywhere, the first is {flat[0]}"
    if turned:
        yield (
            f"{len(turned)} images are turned by their EXIF orientation, the first is {turned[0]}; the annotations "
            "must fit the turned image"
        )


def panoptic_notes(dataset: ImageDataset, report: SplitReport, repeated: Counter[int]) -> Iterator[str]:
    """Say what is valid in panoptic annotations, but hardly meant."""
    names = {category.id: category.name for category in dataset.categories}
    if not any(category.is_thing for category in dataset.categories):
        yield "no category is a thing (isthing is 0 for all): objects of one category are not told apart"
    elif all(category.is_thing for category in dataset.categories) and len(names) > 1:
        yield "every category is a thing (isthing is 1 for all): also what cannot be counted, such as sky or road"
    if repeated:
        listed = ", ".join(f"{names[id_]} ({count} images)" for id_, count in repeated.most_common(5))
        yield f"stuff with several segments in one image: {listed}; if they are countable things, isthing should be 1"
    if report.segments and report.crowds == report.segments:
        yield "every segment is a crowd (iscrowd is 1): nothing is left to train on"
    if report.void_ratio > 0.99:
        yield "nearly every pixel is unlabelled"


def describe_difference(first: ImageDataset, other: ImageDataset) -> str:
    """Say in what the categories of two splits differ; empty where they are the same."""
    known = {category.id: (category.name, category.is_thing) for category in first.categories}
    found = {category.id: (category.name, category.is_thing) for category in other.categories}
    if known == found:
        return ""
    id_ = min(id_ for id_ in known.keys() | found.keys() if known.get(id_) != found.get(id_))

    def describe(entry: tuple[str, bool] | None) -> str:
        return "missing" if entry is None else f"{entry[0]} ({'thing' if entry[1] else 'stuff'})"

    return (
        f"its {len(found)} categories differ from the {len(known)} of the split {first.split}: category {id_} is "
        f"{describe(found.get(id_))} here and {describe(known.get(id_))} there, in {other.annotation_file} and "
        f"{first.annotation_file}. Prepare both in one way: a model is trained on one list"
    )


@dataclass(frozen=True)
class ImageCheck:
    """What the check of one image found.

    Attributes:
        objects: Category id of each annotated object, and whether it is a crowd.
        is_flat: Whether the image has one colour everywhere.
        is_turned: Whether EXIF turns it.
    """

    faults: list[str]
    objects: tuple[tuple[int, bool], ...] = ()
    void_px: int = 0
    is_flat: bool = False
    is_turned: bool = False


def check_picture(dataset: ImageDataset, record: ImageEntry) -> ImageCheck:
    """Check the file of an image."""
    try:
        pixels = dataset.load_image(record)
        is_flat = pixels.size > 0 and bool((pixels == pixels[:1, :1]).all())
        return ImageCheck([], is_flat=is_flat, is_turned=read_orientation(dataset.image_path(record)) != 1)
    except DataError as error:
        return ImageCheck([str(error)])


def check_image(dataset: PanopticDataset, record: ImageRecord) -> ImageCheck:
    """Check one image with its panoptic map."""
    found = check_picture(dataset, record)
    faults = list(found.faults)
    objects = tuple((segment.category_id, segment.is_crowd) for segment in record.segments)
    void_px = 0
    try:
        id_map = dataset.load_panoptic(record)
        path = dataset.panoptic_path(record)
        for segment in record.segments:
            faults += [f"{path}: {text}" for text in check_segment(segment, id_map)]
        void_px = int((id_map == 0).sum())
    except DataError as error:
        faults.append(str(error))
    return replace(found, faults=faults, objects=objects, void_px=void_px)


def check_segment(segment: Segment, id_map: NDArray[np.int32]) -> Iterator[str]:
    """Compare area and box of a segment with its pixels in the id map [H, W]."""
    inside = id_map == segment.id
    area = int(inside.sum())
    if area != segment.area:
        yield (
            f"segment {segment.id} covers {area} pixels, but its annotated area is {segment.area}; panoptic quality "
            "would be wrong"
        )
    if area == 0:
        return
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    left, top = int(columns[0]), int(rows[0])
    box = (left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1)
    # Converters differ in whether the last row and column belong to the box.
    if max(abs(found - stated) for found, stated in zip(box, segment.bbox, strict=True)) > _BOX_TOLERANCE_PX:
        yield f"segment {segment.id} lies in the box {box} (x, y, width, height), but its bbox is {segment.bbox}"


CheckImage = Callable[[Any, Any], ImageCheck]
"""From a data set and one of its records."""
Notes = Callable[[Any, SplitReport, Counter[int]], Iterable[str]]
"""From a data set, its report, and how many images have several segments of a stuff category."""

_worker_task: tuple[ImageDataset, CheckImage] | None = None
"""The data set of a worker process, sent once and not with every chunk, and what checks its images."""


def _start_worker(dataset: ImageDataset, check: CheckImage) -> None:
    global _worker_task
    _worker_task = dataset, check


def _check_in_worker(indices: Sequence[int]) -> list[ImageCheck]:
    assert _worker_task is not None
    return _check_chunk(*_worker_task, indices)


def _check_chunk(dataset: ImageDataset, check: CheckImage, indices: Sequence[int]) -> list[ImageCheck]:
    return [check(dataset, dataset.records[index]) for index in indices]


@contextmanager
def _mapper(dataset: ImageDataset, check: CheckImage, processes: int) -> Iterator[Callable[..., Iterator[Any]]]:
    if processes == 1:
        yield lambda chunks: (_check_chunk(dataset, check, chunk) for chunk in chunks)
        return
    with worker_pool(processes, _start_worker, (dataset, check)) as pool:
        yield lambda chunks: pool.map(_check_in_worker, chunks)
