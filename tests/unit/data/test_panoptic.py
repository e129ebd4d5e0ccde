import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_data import Scene, two_halves, write_custom
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ecocli.config.dataset import DatasetConfig
from ecocli.data.categories import COCO
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import (
    ImageRecord,
    PanopticDataset,
    RecordTable,
    Segment,
    decode_id_map,
    encode_id_map,
)
from ecocli.errors import DataError

IMAGE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


@pytest.fixture
def dataset(tmp_path: Path) -> PanopticDataset:
    scenes = [two_halves(1, (300, 1), (70000, 199)), Scene(2, np.zeros((6, 8), np.int32), {}, image=IMAGE)]
    return open_dataset(DatasetConfig(name=str(write_custom(tmp_path, scenes, COCO))), "val")


def test_load_panoptic__rgb__ids_by_the_formats_formula(dataset: PanopticDataset) -> None:
    # R + 256 G + 65536 B: 300 = (44, 1, 0), 70000 = (112, 17, 1).
    rgb = np.asarray(Image.open(dataset.panoptic_path(dataset.records[0])))
    assert rgb[3, 0].tolist() == [44, 1, 0]
    assert rgb[3, 7].tolist() == [112, 17, 1]
    id_map = dataset.load_panoptic(dataset.records[0])
    assert id_map.dtype == np.int32
    assert id_map[3].tolist() == [300] * 4 + [70000] * 4
    assert id_map[0].tolist() == [0] * 8


@given(st.lists(st.integers(0, 2**24 - 1), min_size=12, max_size=12))
def test_encode_id_map__any_ids__decode_is_its_inverse(ids: list[int]) -> None:
    id_map = np.array(ids, np.int32).reshape(3, 4)
    assert np.array_equal(decode_id_map(encode_id_map(id_map)), id_map)


def test_load_image__png__its_pixels(dataset: PanopticDataset) -> None:
    assert np.array_equal(dataset.load_image(dataset.records[1]), IMAGE)


def test_load_image__grey_file__rgb(dataset: PanopticDataset) -> None:
    grey = IMAGE[..., 0]
    Image.fromarray(grey).save(dataset.image_path(dataset.records[1]))
    assert np.array_equal(dataset.load_image(dataset.records[1]), np.stack([grey] * 3, axis=2))


def test_load_image__exif_turned__upright(dataset: PanopticDataset) -> None:
    # EXIF orientation 3 says: turned by 180 degrees.
    exif = Image.Exif()
    exif[0x0112] = 3
    path = dataset.image_path(dataset.records[1])
    Image.fromarray(IMAGE).save(path, exif=exif)
    assert np.array_equal(dataset.load_image(dataset.records[1]), IMAGE[::-1, ::-1])


def test_load_image__missing__named(dataset: PanopticDataset) -> None:
    dataset.image_path(dataset.records[0]).unlink()
    with pytest.raises(DataError, match=r"The image .*000000000001\.png is missing"):
        dataset.load_image(dataset.records[0])


def test_load_image__truncated__named(dataset: PanopticDataset) -> None:
    path = dataset.image_path(dataset.records[1])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"The image .*000000000002\.png cannot be decoded \(.*may be truncated"):
        dataset.load_image(dataset.records[1])


def test_load_image__other_size__both_sizes_named(dataset: PanopticDataset) -> None:
    Image.new("RGB", (9, 6)).save(dataset.image_path(dataset.records[0]))
    with pytest.raises(DataError, match=r"is 9 x 6 pixels \(width x height\), but the annotations say 8 x 6"):
        dataset.load_image(dataset.records[0])


def test_load_panoptic__truncated__named(dataset: PanopticDataset) -> None:
    path = dataset.panoptic_path(dataset.records[0])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"The panoptic PNG .*000000000001\.png cannot be decoded"):
        dataset.load_panoptic(dataset.records[0])


def test_load_panoptic__grey__expected_rgb(dataset: PanopticDataset) -> None:
    Image.new("L", (8, 6)).save(dataset.panoptic_path(dataset.records[0]))
    with pytest.raises(DataError, match="has mode L, expected RGB with the segment id as R"):
        dataset.load_panoptic(dataset.records[0])


def test_load_panoptic__ids_only_in_png__listed(dataset: PanopticDataset) -> None:
    id_map = dataset.load_panoptic(dataset.records[0])
    id_map[0] = [5, 6, 7, 8, 9, 10, 11, 11]
    encode_id_map(id_map).save(dataset.panoptic_path(dataset.records[0]))
    with pytest.raises(DataError, match="holds segment ids that the annotations lack: 5, 6, 7, 8, 9 and 2 more"):
        dataset.load_panoptic(dataset.records[0])


def test_load_panoptic__ids_only_in_json__listed(dataset: PanopticDataset) -> None:
    id_map = dataset.load_panoptic(dataset.records[0])
    encode_id_map(np.where(id_map == 300, 0, id_map).astype(np.int32)).save(dataset.panoptic_path(dataset.records[0]))
    with pytest.raises(DataError, match="lacks pixels of annotated segment ids: 300"):
        dataset.load_panoptic(dataset.records[0])


def test_class_index__coco__rank_of_the_id(dataset: PanopticDataset) -> None:
    # Contiguous index = rank: 90 toothbrush is the last thing (79), 92 banner the first stuff (80).
    assert [dataset.class_index[id_] for id_ in (1, 90, 92, 200)] == [0, 79, 80, 132]


def test_json_image_id__number_ids__restored(dataset: PanopticDataset) -> None:
    assert [dataset.json_image_id(record) for record in dataset.records] == [1, 2]


def test_fingerprint__copied_elsewhere__same(dataset: PanopticDataset, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in dataset.image_root.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    moved = replace(dataset, name="other", split="x", categories=COCO, image_root=copy)
    assert moved.fingerprint == dataset.fingerprint
    assert moved.fingerprint.startswith("sha256:")
    assert len(moved.fingerprint) == 7 + 64


@pytest.mark.parametrize("change", ["annotation", "image"])
def test_fingerprint__changed_data__changes(dataset: PanopticDataset, tmp_path: Path, change: str) -> None:
    before = dataset.fingerprint
    if change == "annotation":
        content = json.loads(dataset.annotation_file.read_text())
        dataset.annotation_file.write_text(json.dumps({**content, "info": {}}))
    else:
        with dataset.image_path(dataset.records[0]).open("ab") as file:
            file.write(b"\0")
    again = open_dataset(DatasetConfig(name=str(tmp_path / "mine.toml")), "val")
    assert again.fingerprint != before


def test_fingerprint__image_missing__named(dataset: PanopticDataset) -> None:
    dataset.image_path(dataset.records[0]).unlink()
    with pytest.raises(DataError, match=r"Cannot read .*000000000001\.png .* belongs to the val split of mine"):
        _ = dataset.fingerprint


def test_record_table__indexing__like_a_list() -> None:
    two = (Segment(1, 2, False, 5, (4, 3, 2, 1)), Segment(16777215, 3, False, 7, (0, 0, 1, 1)))
    records = [
        ImageRecord("a", "a.jpg", "a.png", 4, 5, (Segment(9, 1, True, 3, (0, 1, 2, 3)),)),
        ImageRecord("b", "b.jpg", "b.png", 6, 7, ()),
        ImageRecord(
            "c",
            "c.jpg",
            "c.png",
            8,
            9,
            two,
        ),
    ]
    table = RecordTable(records)
    assert list(table) == records
    assert table[-1] == records[2]
    assert list(table[1:]) == records[1:]
    with pytest.raises(IndexError):
        table[3]
