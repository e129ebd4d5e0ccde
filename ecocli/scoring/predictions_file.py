"""Predicted panoptic maps as panopticapi reads them: one JSON file and a folder of PNGs, packed into one archive.

The archive is stored without compression (PNGs have theirs) and with fixed dates: equal predictions give equal bytes.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import UsageError
from ecocli.scoring.scores import PartScores

ARCHIVE_NAME = "predictions.zip"
JSON_NAME = "panoptic_pred.json"
FOLDER_NAME = "panoptic_pred"
_DATE = (1980, 1, 1, 0, 0, 0)


def pack_predictions(dataset: PanopticDataset, scores: PartScores, maps: Mapping[int, Path], folder: Path) -> Path:
    """Pack the predicted maps of a whole data set.

    Args:
        maps: The PNG file of each position.
        folder: Where the archive goes.
    """
    entries = scores.segments
    segments: list[list[dict[str, int]]] = [[] for _ in range(len(dataset))]
    columns = (entries.position, entries.segment_id, entries.category_id, entries.area)
    for position, segment, category, area in zip(*(column.tolist() for column in columns), strict=True):
        segments[position].append({"id": segment, "category_id": category, "area": area})
    names = [Path(name).name for name in dataset.records.panoptic_names]
    if len(set(names)) < len(names):
        # Folders told them apart; here is but one.
        names = [f"{position:06d}.png" for position in range(len(names))]
    annotations = [
        {
            "image_id": dataset.json_image_id(record),
            "file_name": names[position],
            "segments_info": segments[position],
        }
        for position, record in enumerate(dataset.records)
    ]
    categories = [{"id": c.id, "name": c.name, "isthing": int(c.is_thing)} for c in dataset.categories]
    content = json.dumps({"annotations": annotations, "categories": categories}, sort_keys=True)
    path = folder / ARCHIVE_NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(JSON_NAME, _DATE), content)
        for position, annotation in enumerate(annotations):
            entry = zipfile.ZipInfo(f"{FOLDER_NAME}/{annotation['file_name']}", _DATE)
            archive.writestr(entry, maps[position].read_bytes())
    return path


def unpack_predictions(path: Path, target: Path) -> Path:
    """Write the JSON file and the folder of an archive below a folder, and return the JSON file's path.

    Raises:
        UsageError: The folder cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Packed as it is here, no archive takes more room than itself.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("an entry is compressed")
            archive.extractall(target)
    except OSError as error:
        raise UsageError(f"Cannot write predictions to {target} ({error.strerror}). Name a writable folder.") from error
    return target / JSON_NAME
