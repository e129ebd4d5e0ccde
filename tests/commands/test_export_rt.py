"""Graphs of RT-M2F's encoder for every size: logits and maps are torch's in either engine."""

from pathlib import Path

import numpy as np
import pytest
from helpers_export import export_tiny
from helpers_inference import TINY

import ecocli
from ecocli.config.architecture import HybridEncoderConfig

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ENGINES = (("onnxruntime", 1e-4), ("openvino", 1e-3))
RT = TINY.model_copy(
    update={
        "pixel_decoder": TINY.pixel_decoder.model_copy(
            update={"encoder": HybridEncoderConfig(heads=4, feedforward_dim=32, fusion_depth=1)}
        )
    }
)


def test_export__rt__logits_and_maps_are_torchs(tmp_path: Path) -> None:
    export_tiny(tmp_path, RT, "--format", "onnx")
    parent = ecocli.load("parent", store=tmp_path / "store", device="cpu")
    paths = [tmp_path / "pictures" / f"{name}.png" for name in ("0", "1", "2", "3", "5")]
    expected = [parent(path) for path in paths]
    for engine, tolerance in ENGINES:
        graphs = ecocli.load(tmp_path / "graphs", engine=engine, threads=1)
        for path, one in zip(paths, expected, strict=True):
            found = graphs(path)
            assert found.exit_depth == one.exit_depth
            assert (found.panoptic != one.panoptic).mean() < 0.001
            for a, b in ((found.class_logits, one.class_logits), (found.mask_logits, one.mask_logits)):
                assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
