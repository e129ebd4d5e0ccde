"""``eco train-parent`` as typed, through ``main``: what is printed, and the exit codes."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from helpers_training import TINY_ARCHITECTURE
from helpers_weights import RESNET, random_model

from ecocli.__main__ import main
from ecocli.weights.export import to_pickle, write_original

_TOML = """
batch_size = 2
log_every = 1
loss.num_points = 64
dataset.shapes = { train = 4, val = 2, scenes = { size = 64 } }
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command with settings for the tiny model; data and store in a folder of their own."""
    lines = [_TOML]
    for name, value in TINY_ARCHITECTURE.items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        lines += [f"architecture.{name}{'' if key is None else f'.{key}'} = {json.dumps(v)}" for key, v in inner]
    (tmp_path / "tiny.toml").write_text("\n".join(lines))
    monkeypatch.setenv("ECO_DATASETS", str(tmp_path / "data"))
    return ["train-parent", "--config", str(tmp_path / "tiny.toml"), "--device", "cpu", "--threads", "1"]


def test_train_parent__one_step__prints_the_digest_and_nothing_else(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--steps", "1", "--lr", "0.001", "--exits", "1,3", "--alpha", "1,2.5"]) == 0
    first = capsys.readouterr()
    assert first.out.startswith("sha256:")
    assert first.out.count("\n") == 1
    assert "training 1/1 step" in first.err
    # The recipe of the shapes evaluates every 350 steps and after the last one.
    assert re.search(r"^step 1: PQ on 2 images at exits 1 3: \d+\.\d \d+\.\d \(", first.err, re.MULTILINE)
    assert "exit1" in first.err
    assert "exit3" in first.err

    again = [*arguments, "--steps", "1", "--set", "optimizer.lr=0.001", "--exits", "1,3", "--alpha", "1,2.5"]
    assert main([*again, "--json", "--name", "mine"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["digest"] == first.out.strip()
    assert result["manifest"]["exit_depths"] == [1, 3]
    assert result["manifest"]["stage_config"]["alpha"] == [1.0, 2.5]

    assert main([*again, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["reused"] == result["digest"]
    assert planned["config"]["architecture"]["num_classes"] == len(result["manifest"]["categories"])

    assert main([*arguments, "--steps", "0", "--init", "mine"]) == 0
    started = capsys.readouterr()
    assert f"parent {result['digest']} (mine)" in started.err


def test_train_parent__dry_run_without_data__prints_settings_and_draws_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--dry-run", "--exits-per-step", "2", "--layers", "3", "--batch-size", "6"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("train-parent: would run\n")
    assert "  exits_per_step = 2\n" in captured.out
    assert "  batch_size = 6\n" in captured.out
    assert "  exit_depths = [2,3]\n" in captured.out
    assert "The shapes are not drawn yet" in captured.err
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "store").exists()


def test_train_parent__evaluation_flags__shape_what_is_asked(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--dry-run"]) == 0
    assert "  evaluation.every = 350\n" in capsys.readouterr().out
    assert main([*arguments, "--dry-run", "--eval-every", "0", "--eval-images", "7"]) == 0
    planned = capsys.readouterr().out
    assert "  evaluation.every = 0\n" in planned
    assert "  evaluation.images = 7\n" in planned
    assert main([*arguments, "--steps", "1", "--eval-every", "0", "--json"]) == 0
    ran = capsys.readouterr()
    assert "PQ on" not in ran.err
    assert list(json.loads(ran.out)["manifest"]["dataset_fingerprints"]) == ["train"]


def test_train_parent__init_file__its_architecture_and_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(to_pickle(write_original(RESNET, random_model(RESNET).state_dict())))
    shapes = ("dataset.shapes.train=4", "dataset.shapes.val=2", "dataset.shapes.scenes.size=64")
    typed = ["train-parent", "--init", str(path), "--device", "cpu", "--data-root", str(tmp_path), "--threads", "1"]
    typed += ["--steps", "0", "--layers", "2", *(f"--set={assignment}" for assignment in shapes)]
    assert main([*typed, "--arch", "m2f-shapes"]) == 3
    refused = capsys.readouterr()
    assert refused.out == ""
    assert "which this architecture does not have. Choose the architecture of the file." in refused.err
    assert not list((tmp_path / "store" / "blobs" / "sha256").glob("*"))

    assert main([*typed, "--json"]) == 0
    started = capsys.readouterr()
    manifest = json.loads(started.out)["manifest"]
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert manifest["stage_config"]["init_digest"] == digest
    assert manifest["architecture"]["backbone"] == RESNET.backbone.model_dump(mode="json")
    assert manifest["exit_depths"] == [2]
    assert f"init {digest} ({path})" in started.err
    assert "left out because the model has fewer encoder layers" in started.err
    assert "kept as they were because the shapes differ: sem_seg_head.predictor.class_embed" in started.err
    assert main([*typed, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert f'  init_digest = "{digest}"\n' in planned
    assert "would reuse sha256:" in planned


def test_train_parent__init_file_absent__bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for typed in ("nowhere.pkl", f"{tmp_path}/nowhere"):
        assert main(["train-parent", "--init", typed, "--device", "cpu", "--data-root", str(tmp_path)]) == 3
        assert f"{typed} does not exist. Give a .pkl, .pth or .safetensors file" in capsys.readouterr().err


def test_train_parent__coco_as_typed__recipe_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["train-parent", "--dataset", "coco", "--data-root", str(tmp_path), "--device", "cpu"]
    assert main(typed) == 3
    assert "panoptic_train2017.json" in capsys.readouterr().err
    assert main([*typed, "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "  steps = 368750\n" in captured.out
    assert "  exits_per_step = 1\n" in captured.out
    assert "panoptic_train2017.json" in captured.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--exits", "2,x"], "--exits is '2,x', expected numbers such as 2,3,4."),
        (["--alpha", "deep"], "--alpha is 'deep', expected depth or uniform or numbers such as 1,2,4."),
        (["--exits-per-step", "some"], "--exits-per-step is 'some', expected all or a number such as 1."),
        (["--arch", "m2f-r500"], "did you mean 'm2f-r50'?"),
        (["--dataset", "coc"], "Did you mean 'coco'?"),
    ],
)
def test_train_parent__wrong_usage__says_what_was_expected(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-parent", "--device", "cpu", *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
