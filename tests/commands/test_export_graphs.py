"""Exported graphs: decisions and maps are torch's in either engine, from the command, Python and a bare runner."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from helpers_store import parent_manifest
from PIL import ExifTags, Image

import ecocli
from ecocli.__main__ import main
from ecocli.artifacts.digest import sha256_file
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.config.any_architecture import ALL_ARCHITECTURES
from ecocli.inference.engines import EngineModel, open_engine

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

RUNNER = Path(__file__).resolve().parents[2] / "docs" / "run_exported.py"
ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def openvino_graphs(place: Path) -> Path:
    """The same graphs in OpenVINO's own format."""
    from ecocli.export.folder import write_openvino

    folder = place / "openvino"
    folder.mkdir()
    plan = json.loads((place / "graphs" / "plan.json").read_text())
    for name, entry in plan["graphs"].items():
        write_openvino(place / "graphs" / f"{name}.onnx", folder / f"{name}.xml")
        entry["files"] = {f"{name}{suffix}": sha256_file(folder / f"{name}{suffix}") for suffix in (".xml", ".bin")}
    plan["format"] = "openvino"
    (folder / "plan.json").write_text(json.dumps(plan))
    shutil.copy(place / "graphs" / "gate.safetensors", folder)
    return folder


@pytest.fixture(scope="module")
def engines(place: Path) -> dict[str, EngineModel]:
    """The graphs opened by each engine; OpenVINO takes seconds to compile them."""
    return {engine: open_engine(place / "graphs", engine, 1) for engine in ENGINES}


@pytest.fixture
def opened(engines: dict[str, EngineModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens the graphs gets those."""
    monkeypatch.setattr("ecocli.inference.opening.open_engine", lambda folder, engine, threads: engines[engine])


def differences(place: Path, engine: str, tolerance: float, **choice: int | float) -> list[int]:
    """Compare an engine with torch on every picture; returns the exits taken."""
    gate = {} if "exit" in choice else {"gate": "gate"}
    torch_model = ecocli.load("parent", store=place / "store", device="cpu", **gate, **choice)  # type: ignore[arg-type]
    graphs = ecocli.load(place / "graphs", engine=engine, threads=1, **choice)  # type: ignore[arg-type]
    taken = []
    for path in sorted((place / "pictures").iterdir()):
        expected, found = torch_model(path), graphs(path)
        assert found.exit_depth == expected.exit_depth
        for a, b in ((found.class_logits, expected.class_logits), (found.mask_logits, expected.mask_logits)):
            assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
        assert (found.panoptic != expected.panoptic).mean() < 0.001
        taken.append(found.exit_depth)
    return taken


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("engine,tolerance", [("onnxruntime", 1e-4), ("openvino", 1e-3)])
def test_engine__gate_chooses__decisions_logits_and_maps_are_torchs(place: Path, engine: str, tolerance: float) -> None:
    # The tolerances are the issue's, of the scale of torch's logits.
    assert len(set(differences(place, engine, tolerance))) > 1


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("engine,tolerance", [("onnxruntime", 1e-4), ("openvino", 1e-3)])
def test_engine__every_exit__logits_and_maps_are_torchs(place: Path, engine: str, tolerance: float, depth: int) -> None:
    assert set(differences(place, engine, tolerance, exit=depth)) == {depth}


@pytest.mark.parametrize("engine,tolerance", [("onnxruntime", 1e-4), ("openvino", 1e-3)])
def test_predict_gated__batch_of_several_exits__each_image_is_torchs(
    place: Path, engines: dict[str, EngineModel], engine: str, tolerance: float
) -> None:
    from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE
    from ecocli.artifacts.manifest import GateManifest
    from ecocli.artifacts.tensors import load_tensors
    from ecocli.data.batching import make_batch
    from ecocli.data.photos import read_photo
    from ecocli.inference.loading import restore_gate, restore_model
    from ecocli.inference.predictor import predict_gated

    store = Store(place / "store")
    parent = store.get(resolve(store, "parent", "parent"), ParentManifest)
    fitted = store.get(resolve(store, "gate", "gate"), GateManifest)
    gate = restore_gate(fitted.read(GATE_FILE, load_tensors), fitted.manifest, "cpu", fitted.digest)
    model = restore_model(parent.manifest.architecture, parent.read(WEIGHTS_FILE, load_tensors), "cpu", parent.digest)
    graphs = engines[engine]
    # Pictures of four sizes, padded to one.
    photos = [read_photo(path) for path in sorted((place / "pictures").iterdir())]
    batch = make_batch(photos, model.pixel_mean, model.pixel_std)
    pairs = list(zip(predict_gated(graphs, gate, batch), predict_gated(model, gate, batch), strict=True))
    assert len({expected.exit_depth for _, expected in pairs}) > 1
    for found, expected in pairs:
        assert found.exit_depth == expected.exit_depth
        for a, b in ((found.pred_logits, expected.pred_logits), (found.pred_masks, expected.pred_masks)):
            assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.usefixtures("opened")
def test_engine__another_price__gate_chooses_as_in_torch(place: Path) -> None:
    # So dear that every image leaves first.
    assert set(differences(place, "onnxruntime", 1e-4, beta=1e3)) == {1}


def test_gate_scores__from_the_graph__are_those_of_the_weights(place: Path, engines: dict[str, EngineModel]) -> None:
    import torch

    from ecocli.data.batching import make_batch
    from ecocli.inference.opening import exported_model
    from ecocli.model.gate import pool_features

    model = engines["onnxruntime"]
    gate = exported_model(place / "graphs", None, None)(1).gate
    assert gate is not None
    rng = np.random.default_rng(0)
    # Padding on both sides: 70 x 100 in 96 x 128.
    images = [rng.integers(0, 255, (70, 100, 3), np.uint8), rng.integers(0, 255, (96, 128, 3), np.uint8)]
    batch = make_batch(images, model.pixel_mean, model.pixel_std)
    features = model.extract(batch.images)
    expected = gate.gate(pool_features(features, batch.image_sizes)["res5"])
    # Means pass through float16, where another order of sums may meet the other side.
    torch.testing.assert_close(model.gate_scores(features, batch.image_sizes), expected, rtol=2e-3, atol=2e-3)


def test_openvino_folder__gate_chooses__as_from_onnx(place: Path, openvino_graphs: Path) -> None:
    graphs = ecocli.load(openvino_graphs, threads=1)
    expected = ecocli.load("parent", gate="gate", store=place / "store", device="cpu")
    for path in sorted((place / "pictures").iterdir()):
        a, b = graphs(path), expected(path)
        assert a.exit_depth == b.exit_depth
        assert np.abs(a.mask_logits - b.mask_logits).max() <= 1e-3 * np.abs(b.mask_logits).max()


@pytest.mark.parametrize("folder", ["graphs", "openvino"])
def test_runner__without_torch__finds_what_eco_finds(
    place: Path, openvino_graphs: Path, folder: str, tmp_path: Path
) -> None:
    # A virtual environment with numpy, Pillow and the engine alone; links stand for their installation.
    venv.EnvBuilder(symlinks=True).create(tmp_path / "venv")
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    engine = "onnxruntime" if folder == "graphs" else "openvino"
    for name in ("numpy", "numpy.libs", "PIL", "pillow.libs", engine, "flatbuffers", "google", "openvino_telemetry"):
        for entry in map(Path, sys.path):
            if (entry / name).exists():
                (site / name).symlink_to(entry / name)
                break
    copied = shutil.copytree(place / folder, tmp_path / "copied")

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(tmp_path / "venv" / "bin" / "python"), "-I", *arguments],
            env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    assert "No module named 'torch'" in python("-c", "import torch").stderr
    model = ecocli.load("parent", gate="gate", store=place / "store", device="cpu")
    mark = Image.Exif()
    mark[ExifTags.Base.Orientation] = 6
    Image.open(place / "pictures" / "1.png").save(tmp_path / "turned.png", exif=mark)
    # The first one is padded. What is done to pictures is the same in either engine, and OpenVINO compiles each time.
    paths = [place / "pictures" / "5.png", place / "pictures" / "0.png", tmp_path / "turned.png"]
    for path in paths if folder == "graphs" else paths[:1]:
        done = python(str(RUNNER), str(copied), str(path), str(tmp_path / "out.png"))
        assert done.returncode == 0, done.stderr
        expected = model(path)
        assert json.loads(done.stdout)["exit_depth"] == expected.exit_depth
        assert (np.asarray(Image.open(tmp_path / "out.png")) != expected.panoptic).mean() < 0.001


def test_export__place_taken__refused_and_kept(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (place / "graphs" / "plan.json").read_bytes()
    store = ["--store", str(place / "store")]
    assert main(["export", str(place / "graphs"), "--format", "onnx", *store]) == 2
    assert main(["export", str(place / "pictures"), "--format", "onnx", "--force", *store]) == 2
    assert "no folder of graphs" in capsys.readouterr().err
    assert (place / "graphs" / "plan.json").read_bytes() == before


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--format", "onnx", "--precision", "bfloat16"], "no bfloat16 on CPUs"),
        (["--format", "onnx", "--size", "100x128"], "no multiple of 32"),
        (["--format", "onnx", "--size", "big"], "expected heights and widths"),
        (["--format", "onnx", "--exit", "2", "--gate", "gate"], "ends at 2"),
        (["--format", "hf", "--gate", "gate"], "are for graphs"),
    ],
)
def test_export__settings_that_do_not_fit__exit_code_2(
    place: Path, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path / "out"), "--store", str(place / "store"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["detr-shapes", "maskformer-shapes"])
def test_export__another_model_than_mask2former__exit_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = ALL_ARCHITECTURES[name]
    manifest = parent_manifest(architecture, architecture.exits.depths)
    Store(tmp_path / "store").put(manifest, {"model.safetensors": b"weights"}, names=["parent"])
    assert main(["export", str(tmp_path / "out"), "--format", "onnx", "--store", str(tmp_path / "store")]) == 2
    assert f"{name} is a {architecture.kind}, and graphs are of Mask2Former alone" in capsys.readouterr().err
