"""What an evaluation keeps of a part of a data set: plain arrays, one file per part.

Axes: N images, V views, K classes, S segments, I instances, P count entries. A view is one way of predicting: each
fixed exit in turn, then the gate (or, without one, nothing). Parts are written as they are finished and read back at
the end, so a killed evaluation goes on, and any number of processes can share the parts. The files are NumPy archives
without pickled objects.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from ecocli.errors import ArtifactError
from ecocli.metrics.instance import InstanceImage, Rle, ScoredInstance, TrueInstance
from ecocli.metrics.semantic import IGNORED

TRUTH_VIEW = -1
EntriesT = TypeVar("EntriesT")
ScoresT = TypeVar("ScoresT")


@runtime_checkable
class Scores(Protocol):
    """What the scores of every task say of some images.

    Attributes:
        positions: Where they stand in the data set.
        original_sizes: Height and width on disk.
        padded_sizes: Height and width in the network.
        gate_depths: Encoder layers the gate chose; 0 without a gate.
    """

    @property
    def positions(self) -> Int64[np.ndarray, " N"]: ...

    @property
    def original_sizes(self) -> Int64[np.ndarray, "N 2"]: ...

    @property
    def padded_sizes(self) -> Int64[np.ndarray, "N 2"]: ...

    @property
    def gate_depths(self) -> Int64[np.ndarray, " N"]: ...


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
        class_index: Class; -1 of a true instance for all unlabelled pixels of its image.
        score: Its score; for a true instance 1 for a crowd, else 0.
        code_bytes: Length of its code.
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


def save_scores(path: Path, scores: Any) -> None:
    """Write a dataclass of arrays, and of dataclasses of arrays, into a folder that is not visible yet."""
    arrays: dict[str, Any] = {}
    for field in fields(scores):
        value = getattr(scores, field.name)
        if is_dataclass(value):
            arrays |= {f"{field.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)}
        else:
            arrays[field.name] = value
    np.savez_compressed(path, **arrays)


def load_scores(path: Path, kind: type[ScoresT]) -> ScoresT:
    """Read scores that ``save_scores`` wrote.

    Raises:
        ArtifactError: They are none of this kind.
    """
    values: dict[str, Any] = {}
    try:
        # numpy leaves a file that it opened itself open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for field in fields(kind):  # type: ignore[arg-type]  # a dataclass, as saved
                group: Any = field.type
                if not is_dataclass(field.type):
                    values[field.name] = archive[field.name]
                    continue
                inner = {one.name: archive[f"{field.name}.{one.name}"] for one in fields(group)}
                values[field.name] = group(**inner)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{path} holds no scores: {error}") from error
    return kind(**values)


def merge_images(parts: Sequence[Scores]) -> dict[str, Any]:
    """Join what all tasks say of images, in the order of the data set."""
    order = np.argsort(np.concatenate([part.positions for part in parts]), kind="stable")
    names = ("positions", "original_sizes", "padded_sizes", "gate_depths")
    return {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names}


def merge_parts(parts: Sequence[PartScores]) -> PartScores:
    """Join parts, at least one, in the order of the data set: the result is the same however they were cut."""
    return PartScores(
        **merge_images(parts),
        counts=merge_entries([part.counts for part in parts]),
        confusion=np.sum([part.confusion for part in parts], axis=0),
        instances=_merge_instances([part.instances for part in parts]),
        segments=merge_entries([part.segments for part in parts]),
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
    void: list[Rle | None] = [None] * len(part.positions)
    ends = np.cumsum(entries.code_bytes)
    wanted = (entries.view == TRUTH_VIEW) | (entries.view == view_of_image[entries.position])
    for index in np.flatnonzero(wanted).tolist():
        code = entries.codes[ends[index] - entries.code_bytes[index] : ends[index]].tobytes()
        mask: Rle = {"size": entries.size[index].tolist(), "counts": code}
        class_index, score = int(entries.class_index[index]), float(entries.score[index])
        position = int(entries.position[index])
        if class_index == IGNORED:
            void[position] = mask
        elif entries.view[index] == TRUTH_VIEW:
            true[position].append(TrueInstance(class_index, mask, is_crowd=score > 0))
        else:
            predicted[position].append(ScoredInstance(class_index, mask, score))
    whole = zip(true if truth is None else truth, predicted, void, strict=True)
    return [InstanceImage(tuple(t), tuple(p), v) for t, p, v in whole]


def merge_entries(parts: Sequence[EntriesT]) -> EntriesT:
    """Join entries, each of which has a position, in the order of the data set."""
    named = fields(parts[0])  # type: ignore[arg-type]  # a dataclass of arrays
    joined = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in named}
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
