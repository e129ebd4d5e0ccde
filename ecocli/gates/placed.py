"""Where a fitted gate would send the images of a derived table, without running it.

Axes: N images, G exits of the gate.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import DerivedTable
from ecocli.artifacts.lineage import GATE_FILE
from ecocli.artifacts.manifest import DerivedManifest, GateManifest
from ecocli.artifacts.pricing import biases_at
from ecocli.artifacts.tensors import load_tensors
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.results import ResultTable


def exit_table(derived: Artifact[DerivedManifest], images: DerivedTable) -> ExitTable[ResultTable]:
    """Results and costs of a split at every exit."""
    depths = derived.manifest.exit_depths
    return ExitTable(depths, images.counts, images.quality, images.gflops, images.encoder_gflops)


def placed_choice(
    gate: Artifact[GateManifest], table: ExitTable[ResultTable], images: DerivedTable, beta: float
) -> Int64[np.ndarray, " N"]:
    """Exit index, of the table's exits, that a linear gate takes for each image.

    Args:
        gate: A gate that was fitted for the table's parent.
        table: Its exits hold the gate's.
        images: With the gate's feature.
        beta: The price it chooses at; another one than its own needs a quality head.
    """
    manifest = gate.manifest

    def linear(path: Path) -> tuple[Float64[np.ndarray, " G"], Float32[np.ndarray, "G D"]]:
        state = load_tensors(path)
        bias, weight = state["linear.bias"].double().numpy(), state["linear.weight"].float().numpy()
        expected = (len(manifest.exit_depths), images.features.shape[1])
        if weight.shape != expected or bias.shape != expected[:1]:
            raise ValueError(f"weights {weight.shape} and biases {bias.shape}, expected {expected}")
        return bias, weight

    bias, weight = gate.read(GATE_FILE, linear)
    scores = images.features.astype(np.float32) @ weight.T + biases_at(manifest, gate.digest, bias, beta)
    # argmax keeps the first of equal scores, so a tie takes the cheaper exit.
    return table.exit_index(np.array(manifest.exit_depths)[scores.argmax(axis=1)])
