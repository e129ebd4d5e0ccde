from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import Scene, edit_json, two_halves, write_custom
from PIL import Image

from ecocli.config.dataset import DatasetConfig
from ecocli.data import checking
from ecocli.data.categories import COCO
from ecocli.data.checking import SplitReport, check_image, check_segment, check_split, panoptic_notes
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import PanopticDataset, Segment, encode_id_map


def check_panoptic(dataset: PanopticDataset, **options: Any) -> SplitReport:
    return check_split(dataset, check=check_image, notes=panoptic_notes, **options)


def open_small(folder: Path) -> PanopticDataset:
    return open_dataset(DatasetConfig(name=str(folder / "mine.toml")), "val", check_files=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    crowded = two_halves(2, (5, 1), (6, 92))
    scenes = [
        two_halves(1, (300, 1), (70000, 199)),
        Scene(2, crowded.id_map, crowded.category_of, crowd_ids=[5]),
        Scene(3, np.zeros((6, 8), np.int32), {}),
    ]
    write_custom(tmp_path, scenes, COCO)
    return tmp_path


def test_check_split__sound__counts_and_no_fault(folder: Path) -> None:
    seen: list[int] = []
    report = check_panoptic(open_small(folder), advance=seen.append)
    assert report.faults == []
    assert (report.images, report.checked, report.segments, report.crowds) == (3, 3, 4, 1)
    assert report.category_counts == {1: 2, 199: 1, 92: 1}
    # One of six rows in two images, all of the third: (8 + 8 + 48) / 144.
    assert report.void_ratio == pytest.approx(64 / 144)
    assert sum(seen) == 3


def test_check_split__processes__same_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pictures" / "000000000002.png").unlink()
    expected = check_panoptic(open_small(folder))
    monkeypatch.setattr(checking, "_MIN_IMAGES_FOR_PROCESSES", 1)
    monkeypatch.setattr(checking, "_CHUNK", 1)
    assert check_panoptic(open_small(folder), processes=2) == expected
    assert len(expected.faults) == 1


def test_check_split__sample__spread_evenly(folder: Path) -> None:
    # Two of three images: positions 0 and 3 // 2 = 1.
    (folder / "pictures" / "000000000001.png").unlink()
    (folder / "pictures" / "000000000003.png").unlink()
    report = check_panoptic(open_small(folder), sample=2)
    assert (report.images, report.checked) == (3, 2)
    assert [fault.image_id for fault in report.faults] == ["1"]


def _remove_image(folder: Path) -> None:
    (folder / "pictures" / "000000000001.png").unlink()


def _remove_png(folder: Path) -> None:
    (folder / "ids" / "000000000001.png").unlink()


def _truncate_image(folder: Path) -> None:
    path = folder / "pictures" / "000000000001.png"
    path.write_bytes(path.read_bytes()[:-40])


def _resize_png(folder: Path) -> None:
    Image.new("RGB", (8, 7)).save(folder / "ids" / "000000000001.png")


def _erase_segment(folder: Path) -> None:
    encode_id_map(np.full((6, 8), 300, np.int32)).save(folder / "ids" / "000000000001.png")


def _change_segment(key: str, value: object) -> Callable[[Path], None]:
    def change(content: dict[str, Any]) -> None:
        entry = next(entry for entry in content["annotations"] if entry["image_id"] == 1)
        entry["segments_info"][0][key] = value

    return lambda folder: edit_json(folder / "truth.json", change)


@pytest.mark.parametrize(
    "damage, message",
    [
        (_remove_image, "The image {folder}/pictures/000000000001.png is missing"),
        (_remove_png, "The panoptic PNG {folder}/ids/000000000001.png is missing"),
        (_truncate_image, "The image {folder}/pictures/000000000001.png cannot be decoded"),
        (_resize_png, "The file {folder}/ids/000000000001.png is 8 x 7 pixels"),
        (_erase_segment, "The panoptic PNG {folder}/ids/000000000001.png lacks pixels of annotated segment ids: 70000"),
        (_change_segment("id", 299), "holds segment ids that the annotations lack: 300 and lacks pixels of annotated"),
        (_change_segment("area", 21), "segment 300 covers 20 pixels, but its annotated area is 21"),
        (
            _change_segment("bbox", [0, 1, 4, 7]),
            "segment 300 lies in the box (0, 1, 4, 5) (x, y, width, height), but its bbox is (0, 1, 4, 7)",
        ),
    ],
)
def test_check_split__one_damage__one_fault_by_name(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    report = check_panoptic(open_small(folder))
    assert len(report.faults) == 1
    fault = report.faults[0]
    assert (fault.split, fault.image_id) == ("val", "1")
    assert message.format(folder=folder) in fault.text


def test_check_segment__box_one_pixel_off__tolerated() -> None:
    id_map = np.zeros((4, 4), np.int32)
    id_map[1:3, 1:3] = 9
    assert list(check_segment(Segment(9, 1, False, 4, (1, 1, 1, 1)), id_map)) == []
    assert len(list(check_segment(Segment(9, 1, False, 4, (1, 1, 4, 2)), id_map))) == 1


def test_check_segment__no_pixels__area_alone() -> None:
    faults = list(check_segment(Segment(9, 1, False, 4, (1, 1, 2, 2)), np.zeros((4, 4), np.int32)))
    assert len(faults) == 1
    assert "covers 0 pixels" in faults[0]
