"""``eco predict`` as typed: paths on stdout, exit codes, which parent is taken."""

import json
from pathlib import Path

import pytest
from helpers_predict import put_gate, put_parent
from helpers_weights import SWIN, random_model
from PIL import Image

from ecocli.__main__ import main
from ecocli.artifacts.store import Store
from ecocli.weights.export import to_pickle, write_original

CITY = SWIN.model_copy(update={"num_classes": 19})


@pytest.fixture
def photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    weights = tmp_path / "model.pkl"
    weights.write_bytes(to_pickle(write_original(CITY, random_model(CITY).state_dict())))
    assert main(["import", str(weights)]) == 0
    capsys.readouterr()
    path = tmp_path / "photo.png"
    Image.new("L", (60, 40), 100).save(path)
    return path


# The imported parent's own rule would enlarge the picture to Cityscapes' size.
SMALL = ["--device", "cpu", "--set", "test_resize.short_edge_px=64"]


def test_predict__photo__paths_on_stdout(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(photo), "--out", str(out), "--semantic", *SMALL]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = ["panoptic.json", "panoptic/photo.png", "overlays/photo.png", "semantic/photo.png"]
    assert paths == [out / name for name in names]
    assert all(path.is_file() for path in paths)


def test_predict__bad_file__code_3_and_the_rest_is_written(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    arguments = [str(photo), str(tmp_path / "bad.jpg"), "--out", str(tmp_path / "out"), "--no-overlays", "--json"]
    assert main(["predict", *arguments, *SMALL]) == 3
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert [image["source"] for image in data["images"]] == [str(photo)]
    assert data["images"][0]["overlay"] is None
    assert len(data["failures"]) == 1
    assert "error: 1 of 2 images could not be read" in captured.err


@pytest.mark.parametrize(
    "arguments,code,message",
    [
        (["--gate", "g", "--exit", "2"], 2, "--gate chooses the exit of each image and --exit fixes it"),
        (["--exit", "2"], 2, "no exit at depth 2; it has 3"),
        (["--gate", "absent"], 4, "absent"),
        (["--set", "colour=1"], 2, "colour"),
    ],
)
def test_predict__wrong__code_and_message(
    arguments: list[str], code: int, message: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(photo), *arguments, "--device", "cpu"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_predict__dry_run__settings_and_inputs(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(photo), "--dry-run", "--json", "--device", "cpu"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["config"]["images"] == [str(photo)]
    assert data["inputs"]["parent"].startswith("sha256:")


def test_predict__gate__brings_its_own_parent(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.default()
    parent = put_parent(store)
    put_gate(store, parent, [0.0, 3.0, 1.0])
    # Another parent is the latest one now.
    put_parent(store, seed=5)
    arguments = ["--gate", "gate", "--out", str(tmp_path / "out"), "--json", "--device", "cpu"]
    assert main(["predict", str(photo), *arguments]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["inputs"]["parent"] == parent
    assert data["images"][0]["exit_depth"] == 2


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_predict__exit_the_parent_lacks__refused_dry_or_not(
    photo: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["predict", str(photo), "--exit", "9", "--device", "cpu", *options]) == 2
    assert "no exit at depth 9" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_predict__out_is_a_file__refused_dry_or_not(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["predict", str(photo), "--out", str(tmp_path / "file"), *SMALL, *options]) == 2
    assert "file: File exists." in capsys.readouterr().err


def test_predict__dry_run_of_a_picture_that_is_missing__code_and_message_of_the_run(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["predict", str(photo), str(tmp_path / "nosuch.jpg"), "--out", str(tmp_path / "out"), *SMALL]
    said = []
    for options in (["--dry-run"], []):
        assert main([*typed, *options]) == 3
        captured = capsys.readouterr()
        said.append(captured.err.splitlines()[-1])
        # The run predicts what is there.
        assert bool(captured.out) is not bool(options)
    assert said[0] == said[1]
    assert said[0].startswith("error: 1 of 2 images could not be read and were left out. The image ")
    assert "nosuch.jpg is missing" in said[0]
