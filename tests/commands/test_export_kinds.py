"""Exports through the command: other encoders, other backbones at fixed sizes, int8, OpenVINO's own format."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_export import pictures, put_tiny
from helpers_inference import TINY
from PIL import Image

import ecocli
from ecocli.__main__ import main
from ecocli.artifacts.store import Store
from ecocli.config.architecture import (
    ArchitectureConfig,
    EncoderConfig,
    HybridEncoderConfig,
    InterleavedEncoderConfig,
    SwinConfig,
)
from ecocli.errors import UsageError

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ENGINES = (("onnxruntime", 1e-4), ("openvino", 1e-3))


def tiny_with(encoder: EncoderConfig) -> ArchitectureConfig:
    return TINY.model_copy(update={"pixel_decoder": TINY.pixel_decoder.model_copy(update={"encoder": encoder})})


LITE = tiny_with(InterleavedEncoderConfig(layers=4, heads=4, feedforward_dim=32, small_ffn=True))
RT = tiny_with(HybridEncoderConfig(heads=4, feedforward_dim=32, fusion_depth=1))
SWIN = TINY.model_copy(
    update={"backbone": SwinConfig(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4)}
)


def export(place: Path, architecture: ArchitectureConfig, *options: str) -> dict[str, object]:
    """Store a parent with a gate where it can have one, write its graphs, and return what the command says."""
    put_tiny(Store(place / "store"), pictures(place / "pictures"), architecture)
    command = ["export", str(place / "graphs"), "--store", str(place / "store"), "--json", *options]
    command += ["--gate", "gate"] if len(architecture.exits.depths) > 1 and "--exit" not in options else []
    # On its own: inside torch.export sizes are symbols, which the tests' type checker takes for faults.
    done = subprocess.run([sys.executable, "-m", "ecocli", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("architecture", [LITE, RT], ids=["lite", "rt"])
def test_export__lite_and_rt__decisions_logits_and_maps_are_torchs(
    architecture: ArchitectureConfig, tmp_path: Path
) -> None:
    export(tmp_path, architecture, "--format", "onnx")
    gated = len(architecture.exits.depths) > 1
    parent = ecocli.load("parent", gate="gate" if gated else None, store=tmp_path / "store", device="cpu")
    paths = sorted((tmp_path / "pictures").iterdir())
    expected = [parent(path) for path in paths]
    assert (len({one.exit_depth for one in expected}) > 1) == gated
    for engine, tolerance in ENGINES:
        graphs = ecocli.load(tmp_path / "graphs", engine=engine, threads=1)
        for path, one in zip(paths, expected, strict=True):
            found = graphs(path)
            assert found.exit_depth == one.exit_depth
            for a, b in ((found.class_logits, one.class_logits), (found.mask_logits, one.mask_logits)):
                assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
        # The whole way: maps in files.
        out = tmp_path / engine
        command = ["predict", *map(str, paths), "--exported", str(tmp_path / "graphs"), "--engine", engine]
        assert main([*command, "--out", str(out)]) == 0
        entries = json.loads((out / "panoptic.json").read_text())["annotations"]
        assert [entry["exit_depth"] for entry in entries] == [one.exit_depth for one in expected]
        for path, one in zip(paths, expected, strict=True):
            colours = np.asarray(Image.open(out / "panoptic" / path.name)).astype(int)
            written = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
            assert (written != one.panoptic).mean() < 0.001


def test_export__swin_at_two_sizes__each_is_torchs_and_others_are_refused(tmp_path: Path) -> None:
    export(tmp_path, SWIN, "--format", "onnx", "--size", "96x128,128x96")
    plan = json.loads((tmp_path / "graphs" / "plan.json").read_text())
    assert plan["sizes"] == [[96, 128], [128, 96]]
    assert {"extract-96x128", "extract-128x96", "gate-96x128", "layer2-128x96"} < set(plan["graphs"])
    parent = ecocli.load("parent", gate="gate", store=tmp_path / "store", device="cpu")
    for engine, tolerance in ENGINES:
        graphs = ecocli.load(tmp_path / "graphs", engine=engine, threads=1)
        # 96 x 128, padded to it from 90 x 120, and 128 x 96.
        for name in ("0", "1", "2"):
            path = tmp_path / "pictures" / f"{name}.png"
            found, expected = graphs(path), parent(path)
            assert found.exit_depth == expected.exit_depth
            for a, b in ((found.class_logits, expected.class_logits), (found.mask_logits, expected.mask_logits)):
                assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
        with pytest.raises(UsageError, match="padded images of 96 x 128, 128 x 96, found 64 x 64"):
            graphs(tmp_path / "pictures" / "3.png")
    # The runner of docs/ finds the graphs of a size.
    runner = Path(__file__).resolve().parents[2] / "docs" / "run_exported.py"
    arguments = [str(tmp_path / "graphs"), str(tmp_path / "pictures" / "2.png"), str(tmp_path / "map.png")]
    done = subprocess.run([sys.executable, str(runner), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = parent(tmp_path / "pictures" / "2.png")
    assert json.loads(done.stdout)["exit_depth"] == expected.exit_depth
    assert (np.asarray(Image.open(tmp_path / "map.png")) != expected.panoptic).mean() < 0.001


def quantised_products(path: Path) -> dict[str, bool]:
    """Whether the first input of each convolution and product was quantised, by name."""
    if path.suffix == ".onnx":
        import onnx

        graph = onnx.load(path).graph
        made_by = {output: node.op_type for node in graph.node for output in node.output}
        products = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
        return {node.name: made_by.get(node.input[0]) == "DequantizeLinear" for node in products}
    import openvino

    return {
        node.get_friendly_name(): node.input_value(0).get_node().get_type_name() == "FakeQuantize"
        for node in openvino.Core().read_model(path).get_ops()
        if node.get_type_name() in ("Convolution", "MatMul")
    }


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_export__int8__graphs_are_quantised_close_to_torch_and_pq_is_told(format_: str, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    (tmp_path / "export.toml").write_text(
        f'dataset = {{name = "shapes", root = "{tmp_path}/data", '
        "shapes = {train = 3, val = 2, scenes = {size = 64}}}\n"
    )
    options = ["--calibration-images", "3", "--checked-images", "2", "--exit", "1"]
    said = export(
        tmp_path, TINY, "--format", format_, "--precision", "int8", "--config", str(tmp_path / "export.toml"), *options
    )
    assert (said["images"], said["precision"]) == (2, "int8")
    pq = said["pq"]
    assert isinstance(pq, dict)
    assert [len(pair) for pair in pq.values()] == [2]
    plan = json.loads((tmp_path / "graphs" / "plan.json").read_text())
    assert plan["precision"] == "int8"
    products = {
        part: quantised_products(tmp_path / "graphs" / next(iter(plan["graphs"][part]["files"])))
        for part in ("extract", "layer0", "decode")
    }
    for part, is_quantised in products.items():
        assert any(is_quantised.values()), part
    # The first and the last ones stay.
    for part, name in (("extract", "backbone.stem.conv1"), ("decode", "predictor.class_embed")):
        assert [found for product, found in products[part].items() if name in product] == [False]
    parent = ecocli.load("parent", exit=1, store=tmp_path / "store", device="cpu")
    graphs = ecocli.load(tmp_path / "graphs", threads=1)
    path = tmp_path / "pictures" / "0.png"
    found, expected = graphs(path), parent(path)
    difference = np.linalg.norm(found.mask_logits - expected.mask_logits) / np.linalg.norm(expected.mask_logits)
    # 127 steps to either side in every product, which drawn weights amplify; and not nothing.
    assert 1e-3 < difference < 0.4
