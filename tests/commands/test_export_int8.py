"""Graphs with int8 products: what is quantised, how close it stays to float32, and the PQ told."""

import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_export import FEATURES

import ecocli
from ecocli.__main__ import main
from ecocli.export.graphs import GraphModule

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


def test_quantise_graphs__one_layer__int8_and_close_to_float32(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    import torch

    from ecocli.export import quantise
    from ecocli.inference.engines import open_engine

    pytest.importorskip("nncf")
    folder = shutil.copytree(place / "graphs", tmp_path / "graphs")
    model = open_engine(folder, threads=1)
    quantise_one = quantise._quantise
    seen = {}

    def only_layer1(path: Path, inputs: quantise.CalibrationInputs, in_float: tuple[str, ...]) -> None:
        seen[path.stem] = [{name: value.shape for name, value in one.items()} for one in inputs]
        if path.stem == "layer1":
            quantise_one(path, inputs, in_float)

    monkeypatch.setattr(quantise, "_quantise", only_layer1)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, 64, 96, generator=generator) for _ in range(2)]
    entries = quantise.quantise_graphs(folder, model, images, logging.getLogger())
    # 2 x 3 cells at stride 32, four times and sixteen times as many at 16 and 8.
    layer = {"tokens": (1, 126, 32), "res5": (1, FEATURES, 2, 3)}
    assert seen == {
        "extract": [{"image": (1, 3, 64, 96)}] * 2,
        **{f"layer{index}": [layer] * 2 for index in range(3)},
        "decode": [{"tokens": (1, 126, 32), "lateral": (1, 32, 16, 24)}] * 2,
    }
    changed = {name for name, entry in entries.items() if entry.files != model.plan.graphs[name].files}
    assert changed == {"layer1"}
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(folder / "layer1.onnx").graph.node}
    plan = model.plan.model_copy(update={"precision": "int8", "graphs": entries})
    (folder / "plan.json").write_text(plan.model_dump_json())
    quantised = open_engine(folder, threads=1)
    assert quantised.precision == "int8"
    features = model.extract(images[0])
    ((expected,), (found,)) = (one.encode(features, [2]) for one in (model, quantised))
    # 127 steps to either side: a percent or so, and not nothing.
    assert 1e-4 < float((found - expected).norm() / expected.norm()) < 0.05


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
def test_export__int8__graphs_are_quantised_close_to_torch_and_pq_is_told(
    place: Path, format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")

    def copy_traced(part: GraphModule, values: object, fixed: bool, path: Path) -> None:
        assert not fixed
        shutil.copy(place / "graphs" / path.name, path)

    # int8 begins with the graphs in float32, which this parent has already.
    monkeypatch.setattr("ecocli.export.folder._write_onnx", copy_traced)
    (tmp_path / "export.toml").write_text(
        f'dataset = {{name = "shapes", root = "{tmp_path}/data", '
        "shapes = {train = 3, val = 2, scenes = {size = 64}}}\n"
    )
    command = ["export", str(tmp_path / "graphs"), "--store", str(place / "store"), "--json", "--exit", "1"]
    command += ["--format", format_, "--precision", "int8", "--config", str(tmp_path / "export.toml")]
    assert main([*command, "--calibration-images", "3", "--checked-images", "2"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["images"], said["precision"]) == (2, "int8")
    assert [len(pair) for pair in said["pq"].values()] == [2]
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
    parent = ecocli.load("parent", exit=1, store=place / "store", device="cpu")
    graphs = ecocli.load(tmp_path / "graphs", threads=1)
    path = place / "pictures" / "0.png"
    found, expected = graphs(path), parent(path)
    difference = np.linalg.norm(found.mask_logits - expected.mask_logits) / np.linalg.norm(expected.mask_logits)
    # 127 steps to either side in every product, which drawn weights amplify; and not nothing.
    assert 1e-3 < difference < 0.4


def int8(place: Path, tmp_path: Path, data: str, *further: str) -> list[str]:
    """The command, with a data set of its own."""
    (tmp_path / "export.toml").write_text(f"dataset = {{{data}}}\n")
    command = ["export", str(tmp_path / "graphs"), "--store", str(place / "store"), "--format", "onnx"]
    return [*command, "--precision", "int8", "--config", str(tmp_path / "export.toml"), *further]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("lacking", "code", "message"),
    [
        (None, 3, "COCO's panoptic annotation file was not found"),
        ("onnxscript", 2, "The exporter is not installed"),
        ("onnxruntime", 2, "The engine onnxruntime is not installed"),
        ("nncf", 2, "int8 needs NNCF, which is not installed"),
    ],
)
def test_export__int8_without_data_or_a_package__refused_before_tracing(
    place: Path,
    options: list[str],
    lacking: str | None,
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr("ecocli.export.folder._write_onnx", None)
    if lacking is not None:
        monkeypatch.setitem(sys.modules, lacking, None)
    assert main([*int8(place, tmp_path, f'name = "coco", root = "{tmp_path}"'), *options]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_export__int8_dry_run_without_the_scenes__said_and_not_drawn(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    assert main(int8(place, tmp_path, f'name = "shapes", root = "{tmp_path}/data"', "--dry-run")) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("export: would run\n")
    assert "The shapes are not drawn yet" in captured.err
    assert not (tmp_path / "data").exists()
