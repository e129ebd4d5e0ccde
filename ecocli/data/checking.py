"""Checks a data set before hours of training: every file, every id, every area and box.

Axes: H W pixels. A check goes further than loading: it counts the pixels of every segment, because panoptic quality
takes the true areas from the JSON file, and a wrong one gives IoUs above 1.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocli.data.panoptic import ImageRecord, PanopticDataset, Segment
from ecocli.data.workers import make_pool
from ecocli.errors import DataError

_CHUNK = 32
_MIN_IMAGES_FOR_PROCESSES = 256
_BOX_TOLERANCE_PX = 1


@dataclass(frozen=True)
class Fault:
    """One thing wrong.

    Attributes:
        split: Split it was found in.
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
        split: Name of the split.
        images: Number of annotated images.
        checked: Number of images looked at.
        segments: Number of their segments, crowds included.
        crowds: Number of their crowd segments.
        void_ratio: Share of their pixels that is unlabelled.
        category_counts: Number of segments of every category id.
        faults: Everything wrong, in the order of the images.
    """

    split: str
    images: int = 0
    checked: int = 0
    segments: int = 0
    crowds: int = 0
    void_ratio: float = 0.0
    category_counts: Counter[int] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)


def check_split(
    dataset: PanopticDataset,
    *,
    sample: int | None = None,
    processes: int = 1,
    advance: Callable[[int], None] | None = None,
) -> SplitReport:
    """Check a split.

    Args:
        dataset: The split, opened without a look at its files.
        sample: Check only so many images, spread evenly; all by default.
        processes: Processes that check.
        advance: Told the number of images just checked.
    """
    report = SplitReport(dataset.split, images=len(dataset))
    wanted = len(dataset) if sample is None else min(sample, len(dataset))
    indices = [position * len(dataset) // wanted for position in range(wanted)]
    chunks = [indices[start : start + _CHUNK] for start in range(0, wanted, _CHUNK)]
    void_px = total_px = 0
    with _mapper(dataset, processes if wanted >= _MIN_IMAGES_FOR_PROCESSES else 1) as map_chunks:
        for chunk, results in zip(chunks, map_chunks(chunks), strict=True):
            for index, (texts, void) in zip(chunk, results, strict=True):
                record = dataset.records[index]
                report.checked += 1
                report.segments += len(record.segments)
                report.crowds += sum(segment.is_crowd for segment in record.segments)
                report.category_counts.update(segment.category_id for segment in record.segments)
                report.faults += [Fault(dataset.split, record.image_id, text) for text in texts]
                void_px += void
                total_px += record.height * record.width
            if advance is not None:
                advance(len(chunk))
    report.void_ratio = void_px / total_px if total_px else 0.0
    return report


def check_image(dataset: PanopticDataset, record: ImageRecord) -> tuple[list[str], int]:
    """Check one image.

    Returns:
        A sentence for every fault, and the number of unlabelled pixels.
    """
    faults: list[str] = []
    try:
        dataset.load_image(record)
    except DataError as error:
        faults.append(str(error))
    try:
        id_map = dataset.load_panoptic(record)
    except DataError as error:
        return [*faults, str(error)], 0
    path = dataset.panoptic_path(record)
    for segment in record.segments:
        faults += [f"{path}: {text}" for text in check_segment(segment, id_map)]
    return faults, int((id_map == 0).sum())


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
    if max(abs(found - said) for found, said in zip(box, segment.bbox, strict=True)) > _BOX_TOLERANCE_PX:
        yield f"segment {segment.id} lies in the box {box} (x, y, width, height), but its bbox is {segment.bbox}"


_worker_dataset: PanopticDataset | None = None
"""The data set of a worker process, sent once and not with every chunk."""


def _start_worker(dataset: PanopticDataset) -> None:
    global _worker_dataset
    _worker_dataset = dataset


def _check_in_worker(indices: Sequence[int]) -> list[tuple[list[str], int]]:
    assert _worker_dataset is not None
    return _check_chunk(_worker_dataset, indices)


def _check_chunk(dataset: PanopticDataset, indices: Sequence[int]) -> list[tuple[list[str], int]]:
    return [check_image(dataset, dataset.records[index]) for index in indices]


@contextmanager
def _mapper(dataset: PanopticDataset, processes: int) -> Iterator[Callable[..., Iterator[Any]]]:
    if processes == 1:
        yield lambda chunks: (_check_chunk(dataset, chunk) for chunk in chunks)
        return
    with make_pool(processes, _start_worker, (dataset,)) as pool:
        yield lambda chunks: pool.map(_check_in_worker, chunks)
