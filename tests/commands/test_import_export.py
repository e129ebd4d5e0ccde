"""``eco import`` and ``eco export`` as typed: digests and paths on stdout, exit codes, and the round trip."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_weights import SWIN, random_model
from PIL import Image

import ecocli
from ecocli.__main__ import main
from ecocli.weights.export import to_pickle, write_original

CITY = SWIN.model_copy(update={"num_classes": 19})
# Its images are not resized, and the group norm of its tokens has two channels a group: means are not all zero.
DRAWN = SWIN.model_copy(
    update={"num_classes": 13, "pixel_decoder": SWIN.pixel_decoder.model_copy(update={"hidden_dim": 64})}
)


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
        (["export", "out", "--format", "tflite"], 2, "format"),
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
        (["file/hf"], "Cannot write file: File exists."),
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
    (tmp_path / "file").write_text("")
    for options in ([], ["--dry-run"]):
        assert main(["export", *arguments, *options]) == 2
        assert message in capsys.readouterr().err


def eco_checkpoint(tmp_path: Path, weight: torch.Tensor, bias: torch.Tensor) -> Path:
    """A checkpoint as the authors of ECO-M2F save it, of a random model with three encoder layers."""
    prefix = "sem_seg_head.pixel_decoder.transformer.encoder.gt.head."
    path = tmp_path / "eco.pth"
    gate = {prefix + "weight": weight, prefix + "bias": bias}
    torch.save({"model": dict(random_model(DRAWN).state_dict()) | gate}, path)
    return path


def test_import__eco_m2f__parent_with_exits_and_the_gate_that_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_model(DRAWN).eval()
    mean, std = np.float32(network.pixel_mean), np.float32(network.pixel_std)
    images = [np.random.default_rng(seed).integers(0, 40 + 30 * seed, (64, 96, 3), np.uint8) for seed in range(6)]
    # The authors' formula, on images without padding: the mean of the projected tokens with stride 32.
    pooled = []
    for image in images:
        pixels = torch.from_numpy(((image - mean) / std).transpose(2, 0, 1)).float()[None]
        with torch.no_grad():
            pooled.append(network.extract(pixels).tokens[0, : 2 * 3].mean(dim=0))
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    differences = torch.stack(pooled) @ (weight[0] - weight[1])
    # Half of the images to either exit.
    ordered = differences.sort().values
    bias = torch.tensor([-float(ordered[2] + ordered[3]) / 2, 0.0])
    assert main(["import", str(eco_checkpoint(tmp_path, weight, bias)), "--categories", "shapes", "--json"]) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    # Two rows of three layers: the deepest two.
    assert printed["manifest"]["exit_depths"] == [2, 3]
    assert "over padding" in captured.err
    assert main(["store", "show", "gate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == printed["gate"]
    model = ecocli.load(gate="gate", device="cpu")
    expected = [2 if difference + bias[0] >= 0 else 3 for difference in differences]
    assert [result.exit_depth for result in model(images)] == expected
    assert set(expected) == {2, 3}


@pytest.mark.parametrize("exits", [1, 4])
def test_import__eco_m2f_with_another_number_of_exits__refused(
    exits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = eco_checkpoint(tmp_path, torch.zeros(exits, 64), torch.zeros(exits))
    assert main(["import", str(path), "--categories", "shapes"]) == 3
    assert "expected finite weights of 2 to 3 exits" in capsys.readouterr().err


@pytest.mark.parametrize(
    "count,things,names,sizes",
    [
        # Origin: Mask2Former's registry and configurations.
        (150, 100, {0: "wall", 12: "person", 149: "flag"}, (640, 2560)),
        (100, 100, {0: "bed", 3: "person", 99: "flag"}, (640, 2560)),
        (65, 37, {0: "Bird", 13: "Road", 64: "Ego Vehicle"}, (2048, 2048)),
    ],
)
def test_import__checkpoint_of_ade20k_or_mapillary__classes_by_their_number_and_predict_names_them(
    count: int,
    things: int,
    names: dict[int, str],
    sizes: tuple[int, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    architecture = SWIN.model_copy(update={"num_classes": count})
    path = tmp_path / "published.pkl"
    path.write_bytes(to_pickle(write_original(architecture, random_model(architecture).state_dict())))
    assert main(["import", str(path), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)["manifest"]
    categories = manifest["categories"]
    assert (len(categories), sum(category["is_thing"] for category in categories)) == (count, things)
    assert {index: categories[index]["name"] for index in names} == names
    assert manifest["test_resize"] == dict(zip(("short_edge_px", "long_edge_px"), sizes, strict=True))
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    resize = ["--set", "test_resize.short_edge_px=64", "--set", "test_resize.long_edge_px=64"]
    assert (
        main(["predict", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--device", "cpu", *resize]) == 0
    )
    written = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [category["name"] for category in written["categories"]] == [category["name"] for category in categories]


@pytest.mark.parametrize("count,name", [(80, "person"), (8, "person")])
def test_import__instance_checkpoint__its_things_are_known(
    count: int, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = SWIN.model_copy(update={"num_classes": count})
    path = tmp_path / "instance.pkl"
    path.write_bytes(to_pickle(write_original(architecture, random_model(architecture).state_dict())))
    assert main(["import", str(path), "--json"]) == 0
    categories = json.loads(capsys.readouterr().out)["manifest"]["categories"]
    assert (len(categories), categories[0]["name"]) == (count, name)
    assert all(category["is_thing"] for category in categories)
