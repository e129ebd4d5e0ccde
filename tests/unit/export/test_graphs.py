"""The gate as a graph pools as the gate does."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from helpers_inference import tiny_model

from ecocli.config.fit_gate import FeatureName
from ecocli.data.batching import make_batch
from ecocli.export.graphs import GateScores
from ecocli.inference.predictor import ExitGate
from ecocli.model.gate import Gate, pool_features


@pytest.mark.parametrize("feature", get_args(FeatureName))
@pytest.mark.parametrize("size", [(64, 96), (33, 70), (90, 61)])
def test_gate_scores__padding_at_the_right_and_below__left_out_as_in_pool_features(
    feature: FeatureName, size: tuple[int, int]
) -> None:
    model = tiny_model()
    image = np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8)
    batch = make_batch([image], model.pixel_mean, model.pixel_std)
    features = model.extract(batch.images)
    pooled = pool_features(features, batch.image_sizes)[feature]
    torch.manual_seed(0)
    gate = Gate(pooled.shape[1], 3).requires_grad_(False)
    graph = GateScores(ExitGate(gate, feature, (1, 2, 3)))
    found = graph(features.tokens, features.maps["res5"], torch.tensor(size))
    # The order of sums differs, and with it at times the last bit of a float16.
    torch.testing.assert_close(found, gate(pooled), rtol=2e-3, atol=2e-3)


def test_trace__layers_of_lite__another_size_equals_the_encoder() -> None:
    # On its own: inside torch.export sizes are symbols, which the tests' type checker takes for faults.
    script = Path(__file__).parents[2] / "helpers_trace.py"
    done = subprocess.run([sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interleaved\n"
