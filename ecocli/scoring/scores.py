"""What an evaluation keeps of a part of a data set: plain arrays, one file per part.

Axes: N images, V views, K classes, S segments, I instances, P count entries. A view is one way of predicting: each
fixed exit in turn, then the gate (or, without one, nothing). Parts are written as they are finished and read back at
the end, so a killed evaluation goes on, and any number of processes can share the parts. The files are NumPy archives
without pickled objects.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from ecocli.errors import ArtifactError
from ecocli.metrics.instance import InstanceImage, Rle, ScoredInstance, TrueInstance

TRUTH_VIEW = -1
EntriesT = TypeVar("EntriesT", "CountEntries", "SegmentEntries")


@dataclass(frozen=True, eq=False)
class CountEntries:
    """Panoptic counts of some images, sparse: one entry per image, view and class that occurs."""

    position: Int64[np.ndarray, " P"]
    view: Int64[np.ndarray, " P"]
    class_index: Int64[np.ndarray, " P"]
    iou_sum: Float64[np.ndarray, " P"]
    tp: Int64[np.ndarray, " P"]
    fp: Int64[np.ndarray, " P"]
    fn: Int64[np.ndarray, " P"]


@dataclass(frozen=True, eq=False)
class SegmentEntries:
    """Segments of the written predictions."""

    position: Int64[np.ndarray, " S"]
    segment_id: Int64[np.ndarray, " S"]
    category_id: Int64[np.ndarray, " S"]
    area: Int64[np.ndarray, " S"]


@dataclass(frozen=True, eq=False)
class InstanceEntries:
    """True (view -1) and predicted instances; masks are run-length codes, one after the other.

    Attributes:
        position: Image in the data set.
        view: View that predicted it.
        class_index: Class.
        score: Its score; for a true instance 1 for a crowd, else 0.
        code_bytes: Length of its code.
        size: Height and width of its image.
        codes: All codes.
    """

    position: Int64[np.ndarray, " I"]
    view: Int64[np.ndarray, " I"]
    class_index: Int64[np.ndarray, " I"]
    score: Float64[np.ndarray, " I"]
    code_bytes: Int64[np.ndarray, " I"]
    size: Int64[np.ndarray, "I 2"]
    codes: UInt8[np.ndarray, " _bytes"]


@dataclass(frozen=True, eq=False)
class PartScores:
    """Scores of some images.

    Attributes:
        positions: Where they stand in the data set.
        original_sizes: Height and width on disk.
        padded_sizes: Height and width in the network.
        gate_depths: Encoder layers the gate chose; 0 without a gate.
        counts: Panoptic counts of every view.
        confusion: Pixels by view, true class and predicted class; the last view is the oracle's. No view at all where
            mIoU is not wanted.
        instances: Instances of every view; none where AP is not wanted.
        segments: Segments of the written predictions.
    """

    positions: Int64[np.ndarray, " N"]
    original_sizes: Int64[np.ndarray, "N 2"]
    padded_sizes: Int64[np.ndarray, "N 2"]
    gate_depths: Int64[np.ndarray, " N"]
    counts: CountEntries
    confusion: Int64[np.ndarray, "_views K K"]
    instances: InstanceEntries
    segments: SegmentEntries


_GROUPS = {"counts": CountEntries, "instances": InstanceEntries, "segments": SegmentEntries}


def save_part(path: Path, part: PartScores) -> None:
    """Write a part into a folder that is not visible yet."""
    arrays: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name in _GROUPS:
            arrays |= {f"{field.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)}
        else:
            arrays[field.name] = value
    np.savez_compressed(path, **arrays)


def load_part(path: Path) -> PartScores:
    """Read a part that ``save_part`` wrote.

    Raises:
        ArtifactError: It is none.
    """
    try:
        # numpy leaves a file that it opened itself open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            groups = {
                name: kind(**{inner.name: archive[f"{name}.{inner.name}"] for inner in fields(kind)})
                for name, kind in _GROUPS.items()
            }
            plain = {field.name: archive[field.name] for field in fields(PartScores) if field.name not in _GROUPS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{path} holds no scores: {error}") from error
    return PartScores(**plain, **groups)


def merge_parts(parts: Sequence[PartScores]) -> PartScores:
    """Join parts, at least one, in the order of the data set: the result is the same however they were cut."""
    order = np.argsort(np.concatenate([part.positions for part in parts]), kind="stable")
    plain = {
        name: np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("positions", "original_sizes", "padded_sizes", "gate_depths")
    }
    return PartScores(
        **plain,
        counts=_merge_entries([part.counts for part in parts]),
        confusion=np.sum([part.confusion for part in parts], axis=0),
        instances=_merge_instances([part.instances for part in parts]),
        segments=_merge_entries([part.segments for part in parts]),
    )


def instance_images(
    part: PartScores,
    view_of_image: Int64[np.ndarray, " N"],
    truth: Sequence[Sequence[TrueInstance]] | None = None,
) -> list[InstanceImage]:
    """Collect true and predicted instances image by image, each image at one view.

    Args:
        part: Scores of a whole data set, positions 0, 1, ...
        view_of_image: The view taken for each image.
        truth: The true instances of each image, where they are not to be those of the panoptic maps.
    """
    entries = part.instances
    true: list[list[TrueInstance]] = [[] for _ in part.positions]
    predicted: list[list[ScoredInstance]] = [[] for _ in part.positions]
    ends = np.cumsum(entries.code_bytes)
    wanted = (entries.view == TRUTH_VIEW) | (entries.view == view_of_image[entries.position])
    for index in np.flatnonzero(wanted).tolist():
        code = entries.codes[ends[index] - entries.code_bytes[index] : ends[index]].tobytes()
        mask: Rle = {"size": entries.size[index].tolist(), "counts": code}
        class_index, score = int(entries.class_index[index]), float(entries.score[index])
        position = int(entries.position[index])
        if entries.view[index] == TRUTH_VIEW:
            true[position].append(TrueInstance(class_index, mask, is_crowd=score > 0))
        else:
            predicted[position].append(ScoredInstance(class_index, mask, score))
    return [InstanceImage(tuple(t), tuple(p)) for t, p in zip(true if truth is None else truth, predicted, strict=True)]


def _merge_entries(parts: Sequence[EntriesT]) -> EntriesT:
    joined = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(parts[0])}
    order = np.argsort(joined["position"], kind="stable")
    return type(parts[0])(**{name: values[order] for name, values in joined.items()})


def _merge_instances(parts: Sequence[InstanceEntries]) -> InstanceEntries:
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(InstanceEntries)
    }
    order = np.argsort(joined["position"], kind="stable")
    ends = np.cumsum(joined["code_bytes"])
    starts = ends - joined["code_bytes"]
    codes = joined.pop("codes")
    pieces = [codes[starts[index] : ends[index]] for index in order.tolist()]
    return InstanceEntries(
        **{name: values[order] for name, values in joined.items()},
        codes=np.concatenate(pieces) if pieces else codes,
    )
