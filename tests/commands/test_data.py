"""``eco data`` as typed, through ``main``: what is printed, what is written, and the exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_data import edit_json, two_halves, write_coco, write_custom
from helpers_exports import write_class_masks
from PIL import Image

from ecocli.__main__ import main
from ecocli.data.categories import COCO

SMALL = ["--train", "3", "--val", "2", "--size", "48"]


def test_data_shapes__fresh__written_and_tabulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "shapes", "--root", str(tmp_path), *SMALL]) == 0
    captured = capsys.readouterr()
    assert str(tmp_path / "shapes") in captured.out
    assert "48 x 48" in captured.out
    assert "drawing shapes 5/5 image" in captured.err
    assert len(list((tmp_path / "shapes" / "train").iterdir())) == 3


def test_data_shapes__environment__names_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECO_DATASETS", str(tmp_path / "mine"))
    assert main(["data", "shapes", *SMALL, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["folder"] == str(tmp_path / "mine" / "shapes")
    assert result["parameters"]["scenes"]["size"] == 48
    assert [(row["split"], row["images"]) for row in result["splits"]] == [("train", 3), ("val", 2)]
    assert all(row["fingerprint"].startswith("sha256:") for row in result["splits"])


def test_data_shapes__again__silent_and_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "shapes", "--root", str(tmp_path), *SMALL]
    assert main(arguments) == 0
    first = capsys.readouterr()
    assert main(arguments) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err == ""


def test_data_shapes__other_parameters__refused_then_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "shapes", "--root", str(tmp_path), *SMALL]) == 0
    other = ["data", "shapes", "--root", str(tmp_path), *SMALL, "--seed", "4"]
    assert main(other) == 3
    assert "holds shapes with other parameters (seed: found 0, expected 4)" in capsys.readouterr().err
    assert main([*other, "--force"]) == 0


def test_data_shapes__set__reaches_the_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["data", "shapes", "--root", str(tmp_path), *SMALL, "--set", "shapes.scenes.clutter=0.1", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["parameters"]["scenes"]["clutter"] == 0.1


def test_data_shapes__preview__a_picture(tmp_path: Path) -> None:
    preview = tmp_path / "new" / "sheet.png"
    assert main(["data", "shapes", "--root", str(tmp_path), *SMALL, "--preview", str(preview)]) == 0
    with Image.open(preview) as sheet:
        assert sheet.width > 600


def test_data_shapes__preview_of_unknown_kind__code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "shapes", "--root", str(tmp_path), *SMALL, "--preview", str(tmp_path / "sheet.xyz")]
    assert main(arguments) == 3
    assert "Expected a path that ends in .png or .jpg" in capsys.readouterr().err


def test_data_check__sound__code_0_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path)
    assert main(["data", "check", "coco", "--root", str(tmp_path), "--split", "val"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split() == [
        "split", "images", "checked", "segments", "crowds", "unlabelled", "faults",
    ]  # fmt: skip
    assert captured.out.splitlines()[-1].split() == ["val", "3", "3", "6", "0", "16.7", "%", "0"]
    assert "checking coco val 3/3 image" in captured.err


def test_data_check__generated_shapes__checked_as_they_are(tmp_path: Path) -> None:
    main(["data", "shapes", "--root", str(tmp_path), *SMALL])
    assert main(["data", "check", "shapes", "--root", str(tmp_path)]) == 0


def test_data_check__no_shapes__not_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "shapes", "--root", str(tmp_path)]) == 3
    assert "Make them with `eco data shapes`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_data_check__faults__listed_by_name_with_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_coco(tmp_path)
    (base / "val2017" / "000000000042.jpg").unlink()
    assert main(["data", "check", "coco", "--root", str(tmp_path), "--split", "val"]) == 3
    captured = capsys.readouterr()
    assert f"val: The image {base}/val2017/000000000042.jpg is missing" in captured.out
    assert "The data set coco has 1 fault, listed on stdout" in captured.err


def test_data_check__split_absent__a_fault_beside_the_other_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path)
    assert main(["data", "check", "coco", "--root", str(tmp_path), "--json"]) == 3
    result = json.loads(capsys.readouterr().out)
    assert not result["ok"]
    assert [(row["split"], row["checked"], len(row["faults"])) for row in result["splits"]] == [
        ("train", 0, 1),
        ("val", 3, 0),
    ]
    assert "panoptic_train2017.json" in result["splits"][0]["faults"][0]["text"]
    assert result["splits"][1]["category_counts"]["person"] == 1


def test_data_check__many_faults__first_twenty_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_custom(tmp_path, [two_halves(number, (1, 1), (2, 92)) for number in range(1, 13)], COCO)

    def spoil(content: dict[str, list[dict[str, list[dict[str, int]]]]]) -> None:
        for entry in content["annotations"]:
            for segment in entry["segments_info"]:
                segment["area"] += 1

    edit_json(tmp_path / "truth.json", spoil)
    assert main(["data", "check", str(path)]) == 3
    captured = capsys.readouterr()
    assert captured.out.count("annotated area is 21") == 20
    assert "... and 4 more faults" in captured.out
    assert "has 24 faults" in captured.err


def test_data_check__fast__few_images_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ecocli.commands.data._FAST_SAMPLE", 2)
    main(["data", "shapes", "--root", str(tmp_path), "--train", "3", "--val", "1", "--size", "48"])
    capsys.readouterr()
    assert main(["data", "check", "shapes", "--root", str(tmp_path), "--fast", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(row["images"], row["checked"]) for row in result["splits"]] == [(3, 2), (1, 1)]


def test_data_check__unknown_data_set__code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "shpaes"]) == 2
    assert "Did you mean 'shapes'?" in capsys.readouterr().err


def test_data__commands__load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from ecocli.__main__ import main;"
        "codes = [main(['data', 'shapes', '--root', sys.argv[1], '--train', '1', '--val', '1', '--size', '48']),"
        "main(['data', 'check', 'shapes', '--root', sys.argv[1]])];"
        "sys.exit(10 if 'torch' in sys.modules else max(codes))"
    )
    finished = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr.decode()


def test_data_convert__class_masks__checked_by_the_line_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_class_masks(tmp_path / "export")
    assert main(["data", "check", str(tmp_path / "export")]) == 3
    assert f"eco data convert {tmp_path / 'export'} my-data" in capsys.readouterr().err
    out = tmp_path / "mine"
    names = ["--names", "1=sky,2=house", "--things", "house"]
    assert main(["data", "convert", str(tmp_path / "export"), str(out), *names]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == str(out / "data.toml")
    assert "house   thing" in captured.out
    assert f"Next: eco data check {out / 'data.toml'}" in captured.err
    for named in (out / "data.toml", out):
        assert main(["data", "check", str(named), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert [split["category_counts"] for split in result["splits"]] == [{"sky": 1, "house": 2}] * 2


def test_data_check__folder_in_panoptic_format__prints_its_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_custom(tmp_path / "data", [two_halves(42, (7, 17), (8, 193))], COCO).unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", "data"]) == 0
    (tmp_path / "my.toml").write_text(capsys.readouterr().out)
    assert main(["data", "check", "my.toml", "--split", "train"]) == 0


def test_data_convert__wrong_use__says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_custom(tmp_path / "data", [two_halves(42, (7, 17), (8, 193))], COCO)
    for arguments, code, text in (
        (["data", "--names", "1"], 2, "expected pairs such as 1=road,2=car"),
        (["data", "--things", "a", "--stuff", "b"], 2, "Give one of them"),
        (["data"], 2, "in COCO's panoptic format already: eco data check"),
        (["empty"], 3, "holds nothing that is known. Known are COCO's panoptic format"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        folder, *rest = arguments
        assert main(["data", "convert", str(tmp_path / folder), str(tmp_path / "out"), *rest]) == code
        assert text in capsys.readouterr().err
    (tmp_path / "empty").rename(tmp_path / "other")
    assert main(["data", "check", str(tmp_path / "other")]) == 3
    assert "holds no data set that is known" in capsys.readouterr().err


def test_data_check__boxes__by_the_annotations_or_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [2, 2, 50, 4], "area": 20, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 16, "width": 16}],
        "annotations": [box],
        "categories": [{"id": 3, "name": "cup"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[splits.val]\nimages = "."\ninstances = "boxes.json"\n')
    assert main(["data", "check", str(file)]) == 3
    captured = capsys.readouterr()
    assert "boxes" in captured.out
    assert "reaches 36 pixels beyond the image of 16 x 16" in captured.out
    assert main(["data", "check", str(file), "--task", "panoptic"]) == 3
    assert "names no panoptic annotations" in capsys.readouterr().out
    assert main(["data", "shapes", "--root", str(tmp_path), *SMALL]) == 0
    assert main(["data", "check", "shapes", "--root", str(tmp_path), "--task", "detection"]) == 0
    assert main(["data", "check", "shapes", "--task", "boxes"]) == 2
