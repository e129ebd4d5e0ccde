"""Graphs of a Swin backbone, which are written for fixed sizes."""

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
from ecocli.config.architecture import (
    SwinConfig,
)
from ecocli.errors import UsageError

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ENGINES = (("onnxruntime", 1e-4), ("openvino", 1e-3))
SWIN = TINY.model_copy(
    update={"backbone": SwinConfig(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4)}
)


def test_export__swin_at_two_sizes__each_is_torchs_and_others_are_refused(tmp_path: Path) -> None:
    export_tiny(tmp_path, SWIN, "--format", "onnx", "--size", "96x128,128x96")
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
