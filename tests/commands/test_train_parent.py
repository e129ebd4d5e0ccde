"""``eco train-parent`` as typed, through ``main``: what is printed, and the exit codes."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers_exports import write_class_masks
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


def dotted(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = dotted(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}".rstrip("."): of_name for name, of_name in inner.items()}
    return flat


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command with settings for the tiny model; data and store in a folder of their own."""
    lines = [_TOML]
    lines += [f"architecture.{name} = {json.dumps(value)}" for name, value in dotted(TINY_ARCHITECTURE).items()]
    (tmp_path / "tiny.toml").write_text("\n".join(lines).replace("num_classes = 3", "num_classes = 13"))
    monkeypatch.setenv("ECO_DATASETS", str(tmp_path / "data"))
    return ["train-parent", "--config", str(tmp_path / "tiny.toml"), "--device", "cpu", "--threads", "1"]


def test_train_parent__one_step__prints_the_digest_and_nothing_else(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    exits = ["--exits", "1,3", "--alpha", "1,2.5", "--exits-per-step", "all"]
    assert main([*arguments, "--steps", "1", "--lr", "0.001", *exits]) == 0
    first = capsys.readouterr()
    assert first.out.startswith("sha256:")
    assert first.out.count("\n") == 1
    assert "training 1/1 step" in first.err
    # The recipe of the shapes evaluates every 350 steps and after the last one.
    assert re.search(r"^step 1: PQ on 2 images at exits 1 3: \d+\.\d \d+\.\d \(", first.err, re.MULTILINE)
    assert "exit1" in first.err
    assert "exit3" in first.err

    again = [*arguments, "--steps", "1", "--set", "optimizer.lr=0.001", *exits]
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
    settings, marked, outside = captured.out.partition("no part of the result's identity\n")
    assert marked
    assert "execution" not in settings
    assert "  execution.checkpoint_every = 250\n  execution.activation_checkpointing = false\n" in outside
    assert "The shapes are not drawn yet" in captured.err
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "store").exists()


def test_train_parent__dry_run_of_what_training_refuses__is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [*arguments, "--eval-every", "0"]
    assert main([*typed, "--steps", "0", "--name", "mine"]) == 0
    capsys.readouterr()
    for more, status, words in (
        (["--batch-size", "3", "--set", "execution.accumulation=2"], 2, "expected a multiple of 2"),
        (["--init", "mine", "--set", "architecture.pixel_decoder.mask_dim=8"], 4, "do not fit the architecture"),
    ):
        assert main([*typed, *more, "--dry-run"]) == status
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.out == ""


def test_train_parent__batch_size_alone__says_the_epochs_it_makes(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [*arguments, "--eval-every", "0"]
    assert main([*typed, "--steps", "1"]) == 0
    assert "1 step of 2 images: 0.5 epochs of 4 images" in capsys.readouterr().err
    assert main([*typed, "--steps", "1", "--batch-size", "4", "--dry-run"]) == 0
    assert "1 step of 4 images: 1 epochs of 4 images" in capsys.readouterr().err
    # The recipe of a large data set on a small one: written out.
    assert main([*typed, "--steps", "368750", "--batch-size", "1", "--dry-run"]) == 0
    assert "368,750 steps of 1 image: 92,188 epochs of 4 images" in capsys.readouterr().err


def test_train_parent__epochs__steps_of_the_same_digest(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [*arguments, "--eval-every", "0", "--json"]
    assert main([*typed, "--epochs", "0.75", "--dry-run"]) == 0
    unknown = json.loads(capsys.readouterr().out)
    assert unknown["config"]["steps"] is None  # the shapes are not drawn
    assert unknown["outside_identity"]["epochs"] == 0.75

    assert main([*typed, "--epochs", "0.75"]) == 0
    captured = capsys.readouterr()
    assert "2 steps of 2 images: 1 epochs of 4 images" in captured.err
    result = json.loads(captured.out)
    assert (result["manifest"]["steps"], result["manifest"]["stage_config"]["steps"]) == (2, 2)

    # Flags go before the file, and --set before both, whichever of the two they say.
    file = tmp_path / "tiny.toml"
    file.write_text(f"steps = 9\n{file.read_text()}")
    for more in (["--epochs", "1"], ["--epochs", "7", "--set", "steps=2"], ["--steps", "7", "--set", "epochs=1"]):
        assert main([*typed, *more, "--dry-run"]) == 0
        planned = json.loads(capsys.readouterr().out)
        assert (planned["config"]["steps"], planned["reused"]) == (2, result["digest"])


def test_train_parent__single_exit_and_precision__as_typed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [*arguments, "--dry-run", "--json", "--layers", "2", "--exits", "2", "--alpha", "depth"]
    for precision in ("float32", "bfloat16", "float16"):
        assert main([*typed, "--precision", precision]) == 0
        assert json.loads(capsys.readouterr().out)["config"]["precision"] == precision
    assert main([*typed, "--precision", "float8"]) == 2
    assert "precision: input should be 'float32', 'bfloat16' or 'float16'" in capsys.readouterr().err


def test_train_parent__own_backbone_of_the_other_kind__trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.toml").write_text(
        f"""{_TOML}
        architecture.name = "tiny"
        architecture.backbone = {{ kind = "swin", embed_dim = 8, depths = [1, 1, 1, 1], num_heads = [1, 1, 2, 2] }}
        architecture.pixel_decoder.encoder.layers = 2
        architecture.transformer_decoder = {{ layers = 1, num_queries = 4 }}
        """
    )
    typed = ["train-parent", "--config", str(tmp_path / "own.toml"), "--data-root", str(tmp_path), "--device", "cpu"]
    assert main([*typed, "--threads", "1", "--steps", "1", "--eval-every", "0", "--json"]) == 0
    architecture = json.loads(capsys.readouterr().out)["manifest"]["architecture"]
    assert architecture["backbone"]["kind"] == "swin"
    assert architecture["backbone"]["depths"] == [1, 1, 1, 1]
    assert main(["train-parent", "--set", "architecture.backbone.kind=swin", "--dry-run", "--device", "cpu"]) == 0
    assert "  architecture.backbone.window_size = 7\n" in capsys.readouterr().out


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


def test_train_parent__coco_that_is_not_there__shows_the_recipe_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["train-parent", "--dataset", "coco", "--data-root", str(tmp_path), "--device", "cpu"]
    for options, shown in (([], False), (["--dry-run"], True)):
        assert main([*typed, *options]) == 3
        captured = capsys.readouterr()
        assert "panoptic_train2017.json" in captured.err
        assert captured.out.startswith("train-parent: would be refused\n") == shown
        assert ("  steps = 368750\n" in captured.out) == shown


def test_train_parent__dry_run_of_broken_data__code_and_message_of_the_run(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--steps", "0"]) == 0
    file = tmp_path / "data" / "shapes" / "annotations" / "panoptic_val.json"
    file.write_bytes(file.read_bytes()[:-20])
    capsys.readouterr()
    said = []
    for options in ([], ["--dry-run"]):
        assert main([*arguments, "--steps", "1", *options]) == 3
        captured = capsys.readouterr()
        assert captured.out.startswith("train-parent: would be refused\n") == bool(options)
        said.append(captured.err.splitlines()[-1])
    assert said[0] == said[1]
    assert "panoptic_val.json" in said[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--exits", "2,x"], "--exits is '2,x', expected numbers such as 2,3,4."),
        (["--steps", "3", "--epochs", "2"], "Both steps and epochs are given"),
        (["--epochs", "0"], "epochs: input should be greater than 0"),
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


def test_train_parent__own_data_from_nothing__steps_of_its_size_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_class_masks(tmp_path / "export")
    assert main(["data", "convert", str(tmp_path / "export"), str(tmp_path / "mine")]) == 0
    dry_run = ["train-parent", "--dataset", str(tmp_path / "mine" / "data.toml"), "--eval-every", "0", "--dry-run"]
    capsys.readouterr()
    assert main(dry_run) == 0
    captured = capsys.readouterr()
    # 50 epochs of the one image of train, 16 a step.
    assert "steps = 4\n" in captured.out
    assert "dataset.shapes" not in captured.out
    assert "4 steps are few" in captured.err
    assert "m2f-r50 starts from random weights, behind batch norms that are frozen" in captured.err
    assert main([*dry_run, "--arch", "m2f-shapes", "--steps", "2000"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main([*dry_run, "--set", "dataset.shapes.val=3"]) == 2
    assert "shapes is a section of the data set shapes alone" in capsys.readouterr().err
