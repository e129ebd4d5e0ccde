"""Gates fitted on generated tables, and what they choose."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers_gate import put_derived
from helpers_stages import run_stage

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import DerivedRecord
from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.fit_gate import FitGateConfig
from ecocli.runtime.context import Runtime
from ecocli.stages import fit_gate

DEPTHS = (2, 3, 4)


def fit(shared: tuple[Store, str], **settings: Any) -> Artifact[GateManifest]:
    """Fit a gate by the paper's recipe, with few folds and replicates."""
    config = FitGateConfig(**{"recipe": "paper", "bootstrap_replicates": 50, "folds": 3, **settings})
    return run_stage(fit_gate, config, {"derived": shared[1]}, shared[0], Runtime.quiet())


def choices(gate: Artifact[GateManifest], records: Sequence[DerivedRecord]) -> np.ndarray:
    """What inference does: the stored layer on the stored features."""
    state = load_tensors(gate.path_of("gate.safetensors"))
    raw = np.stack([record.features[gate.manifest.feature] for record in records]).astype(np.float32)
    scores = torch.from_numpy(raw) @ state["linear.weight"].T + state["linear.bias"]
    return scores.argmax(dim=1).numpy()


def mean_gflops(records: Sequence[DerivedRecord], chosen: np.ndarray) -> float:
    """Mean GFLOPs of the exits chosen."""
    return float(np.mean([record.gflops[e] for record, e in zip(records, chosen, strict=True)]))


def store_of(tmp_path: Path, splits: dict[str, list[DerivedRecord]], **options: Any) -> tuple[Store, str]:
    """A store with these tables, and their digest."""
    store = Store(tmp_path / "store")
    return store, put_derived(store, tmp_path, splits, **options)
