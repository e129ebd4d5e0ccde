"""Test-time batches of a data set: planned from its sizes alone, loaded ahead of the network.

Axes: B images, H W pixels. A batch holds images of one padded size, so an image is padded as if it were alone, to the
next multiple of the network's divisor. Which images share a batch follows from the data set and the batch size; how
many processes share the batches does not matter.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int32

from ecocli.config.dataset import ResizeConfig
from ecocli.data.batching import ImageBatch, make_batch
from ecocli.data.images import ImageDataset
from ecocli.data.panoptic import ImageRecord, PanopticDataset, Segment
from ecocli.data.transforms import resize_for_test, shortest_edge_size
from ecocli.model.contracts import ExitModel
from ecocli.model.mask2former import images_at_once
from ecocli.runtime.background import Background

Size = tuple[int, int]
"""Height and width, in pixels."""

_BATCHES_AHEAD = 2
_PATIENCE_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TruePanoptic:
    """The ground truth of one image at its original size.

    Attributes:
        panoptic_map: Segment id of each pixel, 0 where unlabelled.
    """

    panoptic_map: Int32[np.ndarray, "H W"]
    segments: Sequence[Segment]


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Test images with their ground truth.

    Attributes:
        positions: Where each image stands in the data set.
        truths: Their ground truth, of their task.
    """

    positions: tuple[int, ...]
    images: ImageBatch
    truths: tuple[Any, ...]


def padded_size(original: Size, rule: ResizeConfig, divisor: int = 32) -> Size:
    """Return the size an image has in the network: resized by the test rule, then padded."""
    height, width = original
    if rule.short_edge_px is not None:
        height, width = shortest_edge_size(height, width, rule.short_edge_px, rule.long_edge_px)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def plan_batches(
    sizes: Sequence[Size], rule: ResizeConfig, batch_size: int, divisor: int = 32
) -> list[tuple[int, ...]]:
    """Group images by padded size and cut the groups into batches.

    Args:
        sizes: Original size of every image of the data set.
        divisor: Padded sizes are multiples of it; with 1, images of a batch are of one size.

    Returns:
        Positions in the data set, batch by batch, ordered by each batch's first image.
    """
    groups: dict[Size, list[int]] = {}
    for position, size in enumerate(sizes):
        groups.setdefault(padded_size(size, rule, divisor), []).append(position)
    batches = [
        tuple(group[start : start + batch_size])
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]
    return sorted(batches)


def plan_dataset(
    dataset: ImageDataset, rule: ResizeConfig, batch_size: int, divisor: int = 32
) -> list[tuple[int, ...]]:
    """Plan the batches of a data set; see ``plan_batches``."""
    return plan_batches([(record.height, record.width) for record in dataset.records], rule, batch_size, divisor)


def cut_batches(
    batches: Sequence[Sequence[int]], dataset: ImageDataset, rule: ResizeConfig, device: str
) -> Iterator[Sequence[int]]:
    """Cut planned batches down to what the device is best at; see ``ecocli.model.mask2former.images_at_once``."""
    for positions in batches:
        record = dataset.records[positions[0]]
        height, width = padded_size((record.height, record.width), rule)
        size = images_at_once(height, width, device.partition(":")[0])
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


TruthLoader = Callable[[Any, Any], Any]
"""From a data set and one of its records to the ground truth of that image."""


MirrorTruth = Callable[[Any, int], Any]
"""From the truth of an image and its width in pixels to that of its mirror image."""


def panoptic_truth(dataset: PanopticDataset, record: ImageRecord) -> TruePanoptic:
    """Decode the panoptic map of an image.

    Raises:
        DataError: Its file is missing or damaged.
    """
    return TruePanoptic(dataset.load_panoptic(record), record.segments)


def load_batch(
    dataset: ImageDataset,
    positions: Sequence[int],
    rule: ResizeConfig,
    model: ExitModel,
    device: str,
    load_truth: TruthLoader = panoptic_truth,
    *,
    mirror: MirrorTruth | None = None,
) -> LabelledBatch:
    """Read one batch.

    Args:
        model: What they are made ready for.
        mirror: Turns that of one image round; given it, the batch is of mirror images.

    Raises:
        DataError: A file is missing or damaged.
    """
    records = [dataset.records[position] for position in positions]
    images = [dataset.load_image(record)[:, :: 1 if mirror is None else -1] for record in records]
    batch = make_batch(
        [resize_for_test(image, rule) for image in images],
        model.pixel_mean,
        model.pixel_std,
        model.size_divisor,
        original_sizes=[(record.height, record.width) for record in records],
        image_ids=[record.image_id for record in records],
        device=device,
    )
    truths = tuple(load_truth(dataset, record) for record in records)
    if mirror is not None:
        truths = tuple(mirror(truth, record.width) for truth, record in zip(truths, records, strict=True))
    return LabelledBatch(tuple(positions), batch, truths)


def iterate_batches(
    dataset: ImageDataset,
    batches: Sequence[Sequence[int]],
    rule: ResizeConfig,
    model: ExitModel,
    device: str,
    load_truth: TruthLoader = panoptic_truth,
    *,
    mirror: MirrorTruth | None = None,
) -> Iterator[LabelledBatch]:
    """Yield planned batches in order, cut for the device, reading the next ones while the network works.

    The arguments are those of ``load_batch``.

    Raises:
        DataError: A file is missing or damaged.
    """
    waiting: deque[tuple[Future[LabelledBatch], str]] = deque()
    with Background(_BATCHES_AHEAD) as readers:
        for positions in cut_batches(batches, dataset, rule, device):
            work = partial(load_batch, dataset, positions, rule, model, device, load_truth, mirror=mirror)
            waiting.append((readers.submit(work), str(dataset.image_path(dataset.records[positions[0]]))))
            if len(waiting) > _BATCHES_AHEAD:
                yield _wait(*waiting.popleft())
        while waiting:
            yield _wait(*waiting.popleft())


def _wait(reading: "Future[LabelledBatch]", what: str) -> LabelledBatch:
    while True:
        try:
            return reading.result(timeout=_PATIENCE_S)
        except TimeoutError:
            if reading.done():
                return reading.result()
            _log.warning("Waiting for %s for more than %.0f s. Is the disk or network still there?", what, _PATIENCE_S)
