"""predict, eval and profile on exported graphs: torch's results in either engine, and refusals in one paragraph."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ecocli
from ecocli.__main__ import main
from ecocli.errors import UsageError

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ENGINES = ("onnxruntime", "openvino")
_SCENES = (
    'dataset = {{name = "shapes", root = "{place}/data", shapes = {{train = 1, val = 4, scenes = {{size = 64}}}}}}\n'
)


@pytest.mark.parametrize("engine", ENGINES)
def test_predict__exported__writes_what_torch_writes(
    place: Path, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(path) for path in sorted((place / "pictures").iterdir())]
    plain = [
        *images,
        "--gate",
        "gate",
        "--store",
        str(place / "store"),
        "--out",
        str(tmp_path / "a"),
        "--device",
        "cpu",
    ]
    assert main(["predict", *plain]) == 0
    graphs = ["--exported", str(place / "graphs"), "--engine", engine, "--out", str(tmp_path / "b")]
    assert main(["predict", *images, *graphs]) == 0
    annotations = [json.loads((tmp_path / folder / "panoptic.json").read_text())["annotations"] for folder in "ab"]
    assert [entry["exit_depth"] for entry in annotations[0]] == [entry["exit_depth"] for entry in annotations[1]]
    for path in sorted((tmp_path / "a" / "panoptic").iterdir()):
        pair = [np.asarray(Image.open(tmp_path / folder / "panoptic" / path.name)) for folder in "ab"]
        assert (pair[0] != pair[1]).any(axis=-1).mean() < 0.001


def test_predict__exported_into_the_folder_itself__takes_no_picture_of_a_killed_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Killed before it wrote the file that results are known by.
    leftover = tmp_path / "out" / "overlays"
    leftover.mkdir(parents=True)
    for folder in (tmp_path, leftover):
        shutil.copy(place / "pictures" / "0.png", folder)
    typed = ["predict", str(tmp_path), "--exported", str(place / "graphs"), "--out", str(tmp_path / "out")]
    assert main(typed) == 0
    results = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert len(results["annotations"]) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_eval__exported__rows_are_torchs_and_name_the_engine(
    place: Path, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "eval.toml").write_text("bootstrap_replicates = 10\n" + _SCENES.format(place=place))
    common = ["--config", str(tmp_path / "eval.toml"), "--store", str(place / "store"), "--metrics", "miou", "--json"]
    found = []
    for choice in (["--gate", "gate", "--device", "cpu"], ["--exported", str(place / "graphs"), "--engine", engine]):
        assert main(["eval", *common, *choice, "--set", "execution.timed_images=1"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [(one["engine"], one["precision"]) for one in found] == [("torch", "float32"), (engine, "float32")]
    for a, b in zip(found[0]["rows"], found[1]["rows"], strict=True):
        assert a["exit_shares"] == b["exit_shares"]
        assert a["gflops"] == b["gflops"]
        # Of the share of pixels that may differ, see the maps above.
        assert a["miou"] == pytest.approx(b["miou"], abs=2e-3)
    assert max(row["miou"] for row in found[1]["rows"]) > 0
    assert set(found[1]["ms_per_image"]) == {"exit 1", "exit 2", "exit 3", "gate"}
    assert found[0]["digest"] != found[1]["digest"]


@pytest.mark.parametrize("engine", ENGINES)
def test_profile__exported__ms_of_every_exit_in_that_engine(
    place: Path, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graphs = ["--exported", str(place / "graphs"), "--engine", engine, "--store", str(tmp_path)]
    if engine == "onnxruntime":  # the same words for the other, which takes seconds to open
        assert main(["profile", *graphs, "--size", "96x128", "--repetitions", "2"]) == 0
        assert f"graphs run by {engine} (extract" in capsys.readouterr().out
    assert main(["profile", *graphs, "--size", "96x128", "--repetitions", "2", "--json"]) == 0
    (latency,) = json.loads(capsys.readouterr().out)["latency"]
    assert latency["engine"] == engine
    assert [one["exit_depth"] for one in latency["exits"]] == [1, 2, 3]
    for one in latency["exits"]:
        assert set(one["parts"]) == {"extract", "encoder", "decode", "post_processing"}
        assert all(part["median_ms"] > 0 for part in one["parts"].values())


def test_eval__graphs_of_a_parent_that_is_elsewhere__exit_code_4(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--exported", str(place / "graphs"), "--store", str(tmp_path / "empty")]) == 4
    assert "was exported from it. Name the store" in capsys.readouterr().err


Damage = Callable[[Path], object]


def _edit_plan(folder: Path, **changes: object) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | changes))


@pytest.mark.parametrize(
    "damage,code,message",
    [
        (lambda folder: (folder / "decode.onnx").write_bytes(b"no graph"), 4, "decode.onnx is damaged"),
        (lambda folder: (folder / "layer1.onnx").unlink(), 3, "lacks layer1.onnx"),
        (lambda folder: (folder / "plan.json").unlink(), 3, "has no plan.json"),
        (lambda folder: (folder / "plan.json").write_text("{"), 3, "no readable JSON"),
        (lambda folder: _edit_plan(folder, schema_version=2), 4, "schema version 2"),
        (lambda folder: _edit_plan(folder, exits={"1": ["layer9"]}), 4, "names no graph layer9"),
        (lambda folder: _edit_plan(folder, format="tflite"), 4, "is damaged: format"),
        (lambda folder: _edit_plan(folder, precision="bfloat16"), 2, "no bfloat16 on CPUs"),
        (lambda folder: _edit_plan(folder, sizes=[[512, 512]]), 2, "padded images of 512 x 512, found 96 x 128"),
    ],
)
def test_predict__folder_that_does_not_fit__one_paragraph_and_its_code(
    place: Path, damage: Damage, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "graphs"
    shutil.copytree(place / "graphs", folder)
    damage(folder)
    image = str(place / "pictures" / "0.png")
    assert main(["predict", image, "--exported", str(folder), "--out", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["predict {image}", "eval", "profile --latency"])
def test_dry_run__graph_missing_or_no_engine__refused_as_by_the_run(
    place: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "graphs"
    shutil.copytree(place / "graphs", folder)
    words = command.format(image=place / "pictures" / "0.png").split()
    typed = [*words, "--exported", str(folder), "--store", str(place / "store"), "--dry-run"]
    if words[0] == "eval":
        (tmp_path / "eval.toml").write_text(_SCENES.format(place=place))
        typed += ["--config", str(tmp_path / "eval.toml")]
    if words[0] == "predict":
        typed += ["--out", str(tmp_path / "out")]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(typed) == 2
    assert "The engine onnxruntime is not installed" in capsys.readouterr().err
    monkeypatch.undo()
    (folder / "layer1.onnx").unlink()
    assert main(typed) == 3
    assert "lacks layer1.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--engine", "onnxruntime"], "name them with --exported"),
        (["--engine", "tensorrt"], "expected torch, onnxruntime or openvino"),
        (["--exported", "{graphs}", "--engine", "torch"], "torch runs parents"),
        (["--exported", "{graphs}", "--gate", "gate"], "brings its own parent, gate and precision. Drop --gate"),
        (["--exported", "{graphs}", "--exit", "7"], "no exit at depth 7"),
    ],
)
def test_predict__options_that_do_not_fit__exit_code_2(
    place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(graphs=place / "graphs") for argument in arguments]
    assert main(["predict", str(place / "pictures" / "0.png"), *filled]) == 2
    assert message in capsys.readouterr().err


def test_predict__picture_below_the_smallest_side__exit_code_2(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "flat.png")
    assert main(["predict", str(tmp_path / "flat.png"), "--exported", str(place / "graphs")]) == 2
    assert "each side at least 64, found 32 x 64" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ENGINES)
def test_load__engine_missing__says_what_to_install(place: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    extra = {"onnxruntime": "onnx", "openvino": "openvino"}[engine]
    with pytest.raises(UsageError, match=rf"{engine} is not installed .* 'ecocli\[{extra}\]'"):
        ecocli.load(place / "graphs", engine=engine)  # type: ignore[arg-type]
