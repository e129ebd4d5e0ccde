"""Graphs of the other encoders: decisions, logits and maps are torch's in either engine."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_export import export_tiny
from helpers_inference import TINY
from PIL import Image

import ecocli
from ecocli.__main__ import main
from ecocli.config.architecture import (
    ArchitectureConfig,
    EncoderConfig,
    HybridEncoderConfig,
    InterleavedEncoderConfig,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ENGINES = (("onnxruntime", 1e-4), ("openvino", 1e-3))


def tiny_with(encoder: EncoderConfig) -> ArchitectureConfig:
    return TINY.model_copy(update={"pixel_decoder": TINY.pixel_decoder.model_copy(update={"encoder": encoder})})


LITE = tiny_with(InterleavedEncoderConfig(layers=4, heads=4, feedforward_dim=32, small_ffn=True))
RT = tiny_with(HybridEncoderConfig(heads=4, feedforward_dim=32, fusion_depth=1))


@pytest.mark.parametrize("architecture", [LITE, RT], ids=["lite", "rt"])
def test_export__lite_and_rt__decisions_logits_and_maps_are_torchs(
    architecture: ArchitectureConfig, tmp_path: Path
) -> None:
    export_tiny(tmp_path, architecture, "--format", "onnx")
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
