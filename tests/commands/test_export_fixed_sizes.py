"""Graphs for fixed sizes, as a Swin backbone needs them: of an encoder whose layers are not all alike, with a gate."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_export import export_tiny
from helpers_inference import TINY
from PIL import Image

import ecocli
from ecocli.config.architecture import InterleavedEncoderConfig, SwinConfig
from ecocli.errors import UsageError

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ENGINES = (("onnxruntime", 1e-4), ("openvino", 1e-3))
SWIN_LITE = TINY.model_copy(
    update={
        "backbone": SwinConfig(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4),
        "pixel_decoder": TINY.pixel_decoder.model_copy(
            update={"encoder": InterleavedEncoderConfig(layers=4, heads=4, feedforward_dim=32, small_ffn=True)}
        ),
    }
)


def test_export__swin_and_lite_at_two_sizes__each_is_torchs_and_others_are_refused(tmp_path: Path) -> None:
    # That the layers of Lite-M2F can be traced for every size is shown in tests/unit/export.
    export_tiny(tmp_path, SWIN_LITE, "--format", "onnx", "--size", "96x128,128x96")
    plan = json.loads((tmp_path / "graphs" / "plan.json").read_text())
    assert plan["sizes"] == [[96, 128], [128, 96]]
    assert {"extract-96x128", "extract-128x96", "gate-96x128", "layer2-128x96"} < set(plan["graphs"])
    parent = ecocli.load("parent", gate="gate", store=tmp_path / "store", device="cpu")
    for engine, tolerance in ENGINES:
        graphs = ecocli.load(tmp_path / "graphs", engine=engine, threads=1)
        depths = set()
        # 96 x 128, padded to it from 90 x 120, 128 x 96, and 96 x 128 again.
        for name in ("0", "1", "2", "4"):
            path = tmp_path / "pictures" / f"{name}.png"
            found, expected = graphs(path), parent(path)
            assert found.exit_depth == expected.exit_depth
            assert (found.panoptic != expected.panoptic).mean() < 0.001
            depths.add(found.exit_depth)
            for a, b in ((found.class_logits, expected.class_logits), (found.mask_logits, expected.mask_logits)):
                assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
        assert len(depths) > 1
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
