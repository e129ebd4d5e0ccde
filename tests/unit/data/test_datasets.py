"""Every layout of data-formats in use, and every way it can be incomplete."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers_data import edit_json, two_halves, write_cityscapes, write_coco, write_custom

from ecocli.config.dataset import DatasetConfig
from ecocli.data.categories import COCO
from ecocli.data.datasets import open_dataset, split_names, take
from ecocli.errors import DataError, UsageError


@pytest.mark.parametrize("nested_png", [False, True], ids=["png_beside", "png_in_annotations"])
@pytest.mark.parametrize("nested_images", [False, True], ids=["images_beside", "images_nested"])
@pytest.mark.parametrize("inner_root", [False, True], ids=["datasets_root", "coco_root"])
def test_open_dataset__coco_layouts__all_read(
    tmp_path: Path, nested_png: bool, nested_images: bool, inner_root: bool
) -> None:
    base = write_coco(tmp_path, nested_png=nested_png, nested_images=nested_images)
    dataset = open_dataset(DatasetConfig(name="coco", root=str(base if inner_root else tmp_path)), "val")
    assert [record.image_id for record in dataset.records] == ["9", "42", "139"]
    assert dataset.categories == COCO
    record = dataset.records[2]
    assert dataset.image_path(record).name == "000000000139.jpg"
    assert dataset.load_image(record).shape == (6, 8, 3)
    assert set(np.unique(dataset.load_panoptic(record)).tolist()) == {0, 65793, 3226956}
    assert dataset.json_image_id(record) == 139


@pytest.mark.parametrize("train_ids", [False, True])
def test_open_dataset__cityscapes__found_by_id_with_the_same_class_indices(tmp_path: Path, train_ids: bool) -> None:
    write_cityscapes(tmp_path, train_ids=train_ids)
    dataset = open_dataset(DatasetConfig(name="cityscapes", root=str(tmp_path)), "val")
    assert [record.image_id for record in dataset.records] == ["aachen_000000_000019", "lindau_000001_000019"]
    record = dataset.records[0]
    assert record.file_name == "aachen/aachen_000000_000019_leftImg8bit.png"
    assert dataset.load_image(record).shape == (6, 8, 3)
    assert set(np.unique(dataset.load_panoptic(record)).tolist()) == {0, 7, 26003}
    # Train ids of road and car, in both versions.
    assert [dataset.class_index[segment.category_id] for segment in record.segments] == [0, 13]
    assert dataset.json_image_id(record) == "aachen_000000_000019"


def test_open_dataset__cityscapes_both_versions__the_one_without_train_ids(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, train_ids=True)
    write_cityscapes(tmp_path)
    dataset = open_dataset(DatasetConfig(name="cityscapes", root=str(tmp_path / "cityscapes")), "val")
    assert dataset.annotation_file.name == "cityscapes_panoptic_val.json"


def test_open_dataset__custom__paths_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_custom(tmp_path / "data", [two_halves(3, (1, 1), (2, 200))], COCO)
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset(DatasetConfig(name=str(path.relative_to(tmp_path))), "val")
    assert (dataset.name, dataset.split, len(dataset)) == ("mine", "val", 1)
    assert dataset.load_image(dataset.records[0]).shape == (6, 8, 3)


def test_open_dataset__root_not_given__datasets_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset(DatasetConfig(name="coco"), "val")) == 3


def test_take__indices__only_those(tmp_path: Path) -> None:
    write_coco(tmp_path)
    dataset = open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")
    part = take(dataset, [2, 0])
    assert [record.image_id for record in part.records] == ["139", "9"]
    assert part.fingerprint != dataset.fingerprint


def test_split_names__custom__those_of_the_file(tmp_path: Path) -> None:
    path = write_custom(tmp_path, [two_halves(3, (1, 1), (2, 200))], COCO)
    assert split_names(DatasetConfig(name=str(path))) == ("val",)


def test_open_dataset__misspelt_name__nearest_suggested() -> None:
    with pytest.raises(UsageError, match=r"no data set 'cityscape'\. Did you mean 'cityscapes'\?"):
        open_dataset(DatasetConfig(name="cityscape"), "val")


def test_open_dataset__unknown_name__known_ones_listed() -> None:
    with pytest.raises(UsageError, match=r"no data set 'xyz'\. Known are cityscapes, coco, shapes"):
        open_dataset(DatasetConfig(name="xyz"), "val")


def test_open_dataset__unknown_split__known_ones_listed() -> None:
    with pytest.raises(UsageError, match="coco has no split 'test'; it has train, val"):
        open_dataset(DatasetConfig(name="coco"), "test")


def test_open_dataset__custom_file_missing__named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The data set file .*absent\.toml is missing"):
        open_dataset(DatasetConfig(name=str(tmp_path / "absent.toml")), "val")


def test_open_dataset__custom_folder_missing__split_named(tmp_path: Path) -> None:
    path = write_custom(tmp_path, [two_halves(3, (1, 1), (2, 200))], COCO)
    path.write_text(path.read_text().replace('"ids"', '"idz"'))
    with pytest.raises(DataError, match=r"PNG files was not found; tried .*idz\. Correct the path in \[splits\.val\]"):
        open_dataset(DatasetConfig(name=str(path)), "val")


def test_open_dataset__custom_key_unknown__usage_error(tmp_path: Path) -> None:
    path = write_custom(tmp_path, [two_halves(3, (1, 1), (2, 200))], COCO)
    path.write_text(path.read_text().replace("panoptic =", "panopticc ="))
    with pytest.raises(UsageError, match="panopticc"):
        open_dataset(DatasetConfig(name=str(path)), "val")


def test_open_dataset__coco_annotations_missing__all_tried_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")
    message = str(caught.value)
    assert f"{tmp_path}/coco/annotations/panoptic_val2017.json" in message
    assert f"{tmp_path}/annotations/panoptic_val2017.json" in message
    assert "--data-root" in message


def test_open_dataset__coco_inner_zip__said_to_be_unzipped(tmp_path: Path) -> None:
    base = write_coco(tmp_path)
    (base / "panoptic_val2017").rename(tmp_path / "away")
    (base / "annotations" / "panoptic_val2017.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"inner archive .*panoptic_val2017\.zip is not extracted yet"):
        open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")


def test_open_dataset__coco_png_folder_missing__said(tmp_path: Path) -> None:
    base = write_coco(tmp_path)
    (base / "panoptic_val2017").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"folder of panoptic PNG files was not found; tried .* unzip that too"):
        open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")


def test_open_dataset__coco_image_folder_missing__said(tmp_path: Path) -> None:
    base = write_coco(tmp_path)
    (base / "val2017").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"image folder was not found; tried .* Download val2017\.zip"):
        open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")


@pytest.mark.parametrize(
    "folder, suffix, what", [("val2017", ".jpg", "images"), ("panoptic_val2017", ".png", "panoptic PNG files")]
)
def test_open_dataset__one_file_missing__counted_and_named(tmp_path: Path, folder: str, suffix: str, what: str) -> None:
    base = write_coco(tmp_path)
    (base / folder / f"000000000042{suffix}").unlink()
    config = DatasetConfig(name="coco", root=str(tmp_path))
    message = f"1 of 3 coco {what} are missing in {base / folder}, the first is 000000000042{suffix}"
    with pytest.raises(DataError, match=re.escape(message)):
        open_dataset(config, "val")
    assert len(open_dataset(config, "val", check_files=False)) == 3


def test_open_dataset__cityscapes_city_missing__counted(tmp_path: Path) -> None:
    base = write_cityscapes(tmp_path)
    (base / "leftImg8bit" / "val" / "lindau").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"1 of 2 cityscapes images are missing .* lindau/lindau_000001_000019_left"):
        open_dataset(DatasetConfig(name="cityscapes", root=str(tmp_path)), "val")


def test_open_dataset__cityscapes_not_prepared__names_the_tool(tmp_path: Path) -> None:
    (tmp_path / "cityscapes" / "gtFine").mkdir(parents=True)
    with pytest.raises(DataError, match=r"annotation file was not found; .*createPanopticImgs"):
        open_dataset(DatasetConfig(name="cityscapes", root=str(tmp_path)), "val")


def test_open_dataset__coco_with_other_categories__refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path) / "annotations" / "panoptic_val2017.json"
    edit_json(path, lambda content: content["categories"][2].update(name="automobile"))
    with pytest.raises(DataError, match=r"has 133 categories that differ .* first at id 3 \(automobile\)"):
        open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")


def test_open_dataset__annotation_file_truncated__data_error(tmp_path: Path) -> None:
    path = write_coco(tmp_path) / "annotations" / "panoptic_val2017.json"
    path.write_text(json.dumps({"images": []})[:-1])
    with pytest.raises(DataError, match="is not valid JSON"):
        open_dataset(DatasetConfig(name="coco", root=str(tmp_path)), "val")
