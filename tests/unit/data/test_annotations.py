"""Every way an annotation file can be wrong, each with its own message."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_data import edit_json, two_halves, write_split

from ecocli.data.annotations import read_annotations
from ecocli.data.categories import COCO, palette_color
from ecocli.data.panoptic import Segment
from ecocli.errors import DataError


@pytest.fixture
def annotation_file(tmp_path: Path) -> Path:
    path = tmp_path / "panoptic.json"
    scenes = [two_halves(139, (3226956, 1), (65793, 199)), two_halves(42, (7, 17), (8, 193))]
    write_split(scenes, COCO, tmp_path / "images", tmp_path / "png", path)
    return path


def test_read_annotations__lists_in_other_order__joined_by_id_and_sorted(annotation_file: Path) -> None:
    annotations = read_annotations(annotation_file)
    assert annotations.has_number_ids
    assert annotations.categories == COCO
    assert [record.image_id for record in annotations.records] == ["42", "139"]
    first = annotations.records[0]
    assert (first.file_name, first.panoptic_name) == ("000000000042.png", "000000000042.png")
    assert (first.height, first.width) == (6, 8)
    # Worked by hand: two halves of 5 rows x 4 columns below one unlabelled row.
    assert first.segments == (
        Segment(7, 17, False, 20, (0, 1, 4, 5)),
        Segment(8, 193, False, 20, (4, 1, 4, 5)),
    )


def test_read_annotations__categories_without_a_color__get_one_that_shows(annotation_file: Path) -> None:
    def forget(content: dict[str, Any]) -> None:
        del content["categories"][0]["color"]
        content["categories"][1]["color"] = None

    edit_json(annotation_file, forget)
    found = read_annotations(annotation_file).categories
    assert [category.color for category in found[:2]] == [palette_color(c.id, c.is_thing) for c in COCO[:2]]
    assert found[2:] == COCO[2:]


def test_read_annotations__numbers_sort_as_numbers__text_as_text(annotation_file: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        for image, annotation in zip(content["images"], reversed(content["annotations"]), strict=True):
            image["id"] = annotation["image_id"] = str(image["id"])

    edit_json(annotation_file, rename)
    annotations = read_annotations(annotation_file)
    assert not annotations.has_number_ids
    assert [record.image_id for record in annotations.records] == ["139", "42"]


def test_read_annotations__no_segments__image_stays(annotation_file: Path) -> None:
    edit_json(annotation_file, lambda content: content["annotations"][0].update(segments_info=[]))
    assert [len(record.segments) for record in read_annotations(annotation_file).records] == [0, 2]


def test_read_annotations__iscrowd_absent__no_crowd(annotation_file: Path) -> None:
    edit_json(annotation_file, lambda content: content["annotations"][0]["segments_info"][0].pop("iscrowd"))
    assert not read_annotations(annotation_file).records[0].segments[0].is_crowd


def test_read_annotations__missing__named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The annotation file .*absent\.json is missing"):
        read_annotations(tmp_path / "absent.json")


def test_read_annotations__folder__cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_annotations(tmp_path)


def test_read_annotations__truncated__not_valid_json(annotation_file: Path) -> None:
    annotation_file.write_bytes(annotation_file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"is not valid JSON \(.*it may be truncated"):
        read_annotations(annotation_file)


def _segment(content: dict[str, Any]) -> dict[str, Any]:
    segment: dict[str, Any] = content["annotations"][0]["segments_info"][0]
    return segment


DAMAGES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("no images", lambda c: c.pop("images"), "has no list 'images'"),
    ("empty images", lambda c: c.update(images=[]) or c.update(annotations=[]), "has no images"),
    ("empty categories", lambda c: c.update(categories=[]), "has no categories"),
    (
        "instances",
        lambda c: [entry.pop("segments_info") for entry in c["annotations"]],
        "holds instances, not panoptic segments",
    ),
    ("unknown image", lambda c: c["images"].pop(0), "has an annotation of image 139, which is not among its images"),
    ("no annotation", lambda c: c["annotations"].pop(), "has no annotation for 1 of its images, the first is 139"),
    ("two", lambda c: c["annotations"].append(c["annotations"][0]), "has two annotations of image 42"),
    ("image twice", lambda c: c["images"].append(c["images"][0]), "has image id 139 twice"),
    ("category twice", lambda c: c["categories"].append(c["categories"][0]), "has category id 1 twice"),
    ("no thing flag", lambda c: c["categories"][0].pop("isthing"), "has category 1 without a proper 'isthing'"),
    ("no height", lambda c: c["images"][0].pop("height"), "has image 139 without a proper 'height'"),
    ("no list", lambda c: c["annotations"][0].update(segments_info=1), "without a proper 'segments_info'"),
    ("unknown category", lambda c: _segment(c).update(category_id=12), "gives segment 7 of image 42 the unknown cat"),
    ("id 0", lambda c: _segment(c).update(id=0), "has segment 0 of image 42, but ids run from 1 to 16777215"),
    ("id too large", lambda c: _segment(c).update(id=2**24), "has segment 16777216 of image 42, but ids run"),
    ("id twice", lambda c: _segment(c).update(id=8), "has a segment id twice in image 42"),
    ("no area", lambda c: _segment(c).pop("area"), "has segment 7 of image 42 without a proper 'area' (found None"),
    ("short bbox", lambda c: _segment(c).update(bbox=[1, 2]), "gives segment 7 of image 42 a bbox of 2 numbers"),
    ("bbox of text", lambda c: _segment(c).update(bbox=["a", 2, 3, 4]), "of image 42 the number 'a' in its bbox"),
    ("bbox of no numbers", lambda c: _segment(c).update(bbox=[float("nan"), 2, 3, 4]), "the number nan in its bbox"),
    ("huge area", lambda c: _segment(c).update(area=10**12), "the number 1000000000000 in its area"),
    ("huge category", lambda c: c["categories"][0].update(id=2**31), "has the category id 2147483648, but ids run"),
    ("flat image", lambda c: c["images"][0].update(height=0), "gives image 139 the height 0, expected a positive"),
    ("color by name", lambda c: c["categories"][0].update(color="red"), "gives category 1 the color 'red', expected"),
    ("color outside", lambda c: c["categories"][0].update(color=[0, 0, 256]), "the color [0, 0, 256], expected"),
    ("no entry", lambda c: c["annotations"].insert(0, 3), "has an annotation without a proper 'image_id' (found None"),
]


@pytest.mark.parametrize("damage, message", [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_read_annotations__damaged__says_what_and_where(
    annotation_file: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_json(annotation_file, damage)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_annotations(annotation_file)
    assert str(annotation_file) in str(caught.value)
    assert "\n" not in str(caught.value)
