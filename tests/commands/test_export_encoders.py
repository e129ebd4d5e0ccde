"""Graphs of the other encoders: decisions, logits and maps are torch's in either engine."""

from pathlib import Path

import numpy as np
import pytest
from helpers_export import export_tiny
from helpers_inference import TINY

import ecocli
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


@pytest.mark.parametrize(
    ("architecture", "options", "names"),
    [
        # One padded size: that Lite-M2F's layers are traced for every size is in tests/unit/export.
        (LITE, ["--size", "96x128"], ["0", "1", "4"]),
        (RT, [], ["0", "1", "2", "3", "5"]),
    ],
    ids=["lite", "rt"],
)
def test_export__lite_and_rt__decisions_logits_and_maps_are_torchs(
    architecture: ArchitectureConfig, options: list[str], names: list[str], tmp_path: Path
) -> None:
    export_tiny(tmp_path, architecture, "--format", "onnx", *options)
    gated = len(architecture.exits.depths) > 1
    parent = ecocli.load("parent", gate="gate" if gated else None, store=tmp_path / "store", device="cpu")
    paths = [tmp_path / "pictures" / f"{name}.png" for name in names]
    expected = [parent(path) for path in paths]
    assert (len({one.exit_depth for one in expected}) > 1) == gated
    for engine, tolerance in ENGINES:
        graphs = ecocli.load(tmp_path / "graphs", engine=engine, threads=1)
        for path, one in zip(paths, expected, strict=True):
            found = graphs(path)
            assert found.exit_depth == one.exit_depth
            assert (found.panoptic != one.panoptic).mean() < 0.001
            for a, b in ((found.class_logits, one.class_logits), (found.mask_logits, one.mask_logits)):
                assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
