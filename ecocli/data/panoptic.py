"""Panoptic data sets in COCO's format: segments, image records, decoding of images and id maps.

Axes: H W pixels, S segments of a whole split. An id map holds R + 256 G + 65536 B of the panoptic PNG; 0 is VOID.
Unlike panopticapi, image ids are text everywhere (Cityscapes has text, COCO numbers), and every inconsistency
between PNG and JSON is an error where it is first seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecocli.data.images import ImageDataset
from ecocli.data.pictures import PANOPTIC
from ecocli.errors import DataError


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: Value of its pixels in the id map; positive, unique within the image.
        is_crowd: True for a group of objects that are not told apart.
        bbox: Left, top, width, height, in pixels.
    """

    id: int
    category_id: int
    is_crowd: bool
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One annotated image.

    Attributes:
        image_id: Id as text, also where the annotation file has a number.
        file_name: Image file, relative to the image folder of the split.
        panoptic_name: Panoptic PNG file, relative to the panoptic folder of the split.
        segments: Its segments in the order of the annotation file.
    """

    image_id: str
    file_name: str
    panoptic_name: str
    height: int
    width: int
    segments: tuple[Segment, ...]


class RecordTable(Sequence[ImageRecord]):
    """Image records kept as columns: a training split of COCO takes tens of megabytes, not a gigabyte.

    A record is made anew whenever it is asked for; data-loading processes then share the columns untouched.
    """

    def __init__(self, records: Iterator[ImageRecord] | Sequence[ImageRecord]) -> None:
        self.image_ids: list[str] = []
        self.file_names: list[str] = []
        self.panoptic_names: list[str] = []
        sizes: list[tuple[int, int]] = []
        counts: list[int] = [0]
        rows: list[tuple[int, ...]] = []
        for record in records:
            self.image_ids.append(record.image_id)
            self.file_names.append(record.file_name)
            self.panoptic_names.append(record.panoptic_name)
            sizes.append((record.height, record.width))
            counts.append(len(record.segments))
            rows.extend((s.id, s.category_id, s.is_crowd, s.area, *s.bbox) for s in record.segments)
        self._sizes = np.array(sizes, np.int32).reshape(-1, 2)
        self._starts = np.cumsum(counts)
        self._rows = np.array(rows, np.int32).reshape(-1, 8)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.image_ids)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> "RecordTable": ...

    def __getitem__(self, index: int | slice) -> "ImageRecord | RecordTable":
        """Make one record, or a table of a part."""
        if isinstance(index, slice):
            return RecordTable([self[i] for i in range(*index.indices(len(self)))])
        position = range(len(self))[index]
        height, width = self._sizes[position].tolist()
        rows = self._rows[self._starts[position] : self._starts[position + 1]].tolist()
        segments = tuple(
            Segment(id_, category, bool(crowd), area, (left, top, w, h))
            for id_, category, crowd, area, left, top, w, h in rows
        )
        return ImageRecord(
            self.image_ids[position],
            self.file_names[position],
            self.panoptic_names[position],
            height,
            width,
            segments,
        )

    def take(self, indices: Sequence[int]) -> "RecordTable":
        """The records of some images, in the order given."""
        return RecordTable([self[index] for index in indices])


@dataclass(frozen=True)
class PanopticDataset(ImageDataset):
    """One split with panoptic maps.

    Attributes:
        instance_file: COCO's instance annotations of the same images, where there are any.
    """

    records: RecordTable
    panoptic_root: Path
    instance_file: Path | None = None

    def panoptic_path(self, record: ImageRecord) -> Path:
        """Give the path of the panoptic PNG."""
        return self.panoptic_root / record.panoptic_name

    def load_panoptic(self, record: ImageRecord) -> NDArray[np.int32]:
        """Decode the id map [H, W] and compare its ids with the annotated ones.

        Raises:
            DataError: The file is missing, truncated, of another size, no RGB PNG, or its ids differ from the
                annotation's.
        """
        path = self.panoptic_path(record)
        id_map = decode_id_map(self._read(path, PANOPTIC, record, self.panoptic_root))
        found = set(np.unique(id_map).tolist()) - {0}
        annotated = {segment.id for segment in record.segments}
        if found != annotated:
            raise DataError(describe_id_fault(path, found - annotated, annotated - found))
        return id_map


def decode_id_map(picture: Image.Image) -> NDArray[np.int32]:
    """Turn an RGB panoptic picture into the map [H, W] of segment ids R + 256 G + 65536 B."""
    packed = np.asarray(picture.convert("RGBA")).view("<u4")[..., 0]
    return (packed & np.uint32(0xFFFFFF)).astype(np.int32)


def encode_id_map(id_map: NDArray[np.int32]) -> Image.Image:
    """Turn a map [H, W] of segment ids below 2^24 into an RGB panoptic picture."""
    packed = np.ascontiguousarray(id_map, dtype="<u4").view(np.uint8).reshape(*id_map.shape, 4)
    return Image.fromarray(packed).convert("RGB")


def describe_id_fault(path: Path, only_png: set[int], only_json: set[int]) -> str:
    """Describe segment ids that only the panoptic PNG or only the annotations know."""
    parts = []
    if only_png:
        parts.append(f"holds segment ids that the annotations lack: {_list_ids(only_png)}")
    if only_json:
        parts.append(f"lacks pixels of annotated segment ids: {_list_ids(only_json)}")
    advice = (
        "PNG folder and JSON file must come from the same release; take both from one archive."
        if only_png
        else "Probably a later segment was painted over them: leave segments without a pixel out of the annotations."
    )
    return f"The panoptic PNG {path} {' and '.join(parts)}. {advice}"


def _list_ids(ids: set[int]) -> str:
    text = ", ".join(str(id_) for id_ in sorted(ids)[:5])
    return text + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
