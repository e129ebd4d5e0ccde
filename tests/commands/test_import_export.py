"""``eco import`` and ``eco export`` as typed: digests and paths on stdout, exit codes, and the round trip."""

import json
from pathlib import Path

import pytest
from helpers_weights import SWIN, random_model

from ecocli.__main__ import main
from ecocli.weights.export import to_pickle, write_original

CITY = SWIN.model_copy(update={"num_classes": 19})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(to_pickle(write_original(CITY, random_model(CITY).state_dict())))
    return path


def test_import__then_export_then_import__same_weights(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(checkpoint), "--name", "published"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("sha256:")
    assert first.count("\n") == 1
    assert main(["export", str(tmp_path / "hf"), "--parent", "published"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'hf'}\n"
    assert main(["import", str(tmp_path / "hf"), "--json"]) == 0
    folder = json.loads(capsys.readouterr().out)
    assert main(["import", str(checkpoint), "--json"]) == 0
    file = json.loads(capsys.readouterr().out)
    assert f"{file['digest']}\n" == first
    assert folder["manifest"]["files"] == file["manifest"]["files"]


def test_import__dry_run__says_what_would_be_reused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(checkpoint), "--dry-run"]) == 0
    assert "import: would run" in capsys.readouterr().out
    assert main(["import", str(checkpoint)]) == 0
    digest = capsys.readouterr().out.strip()
    assert main(["import", str(checkpoint), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] == digest


@pytest.mark.parametrize(
    "arguments,code,message",
    [
        (["import", "absent.pkl"], 3, "absent.pkl does not exist"),
        (["import", "{checkpoint}", "--arch", "m2f-r50"], 3, "another model than m2f-r50"),
        (["import", "{checkpoint}", "--arch", "resnet"], 2, "expected one of"),
        (["import", "{checkpoint}", "--categories", "coco"], 2, "coco has 133 categories"),
        (["export", "out", "--format", "onnx"], 2, "format"),
        (["export", "out"], 4, "parent"),
    ],
)
def test_import_and_export__wrong__exit_code_and_one_paragraph(
    arguments: list[str], code: int, message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(checkpoint=checkpoint) for word in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_export__dry_run__writes_nothing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(checkpoint)]) == 0
    assert main(["export", str(tmp_path / "hf"), "--dry-run"]) == 0
    assert "export: would run" in capsys.readouterr().out
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.zip", "--format", "original"], "which ends in none of .pkl, .pth, .safetensors"),
        (["hf", "--exit", "9"], "has no exit at depth 9; it has 3"),
        (["taken"], "is there already"),
    ],
)
def test_export__dry_run_of_what_the_run_refuses__refused(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    assert main(["import", str(checkpoint)]) == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    for options in ([], ["--dry-run"]):
        assert main(["export", *arguments, *options]) == 2
        assert message in capsys.readouterr().err
