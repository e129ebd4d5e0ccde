"""A small random parent and gates for it, as prediction finds them in a store."""

from typing import Any

import torch
from helpers_store import derived_manifest, gate_metrics, parent_manifest
from helpers_weights import RESNET, random_model

from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import save_tensors
from ecocli.config.category import CategoryConfig
from ecocli.config.dataset import ResizeConfig

# Random weights are sure of nothing: without thresholds they still give segments.
ARCHITECTURE = RESNET.model_copy(update={"object_mask_threshold": 0.0, "overlap_threshold": 0.0})
CATEGORIES = tuple(
    CategoryConfig(id=id_, name=name, supercategory="s", is_thing=is_thing, color=(id_, 50, 90))
    for id_, name, is_thing in ((2, "car", True), (5, "dog", True), (9, "sky", False), (12, "sea", False))
)


def put_parent(store: Store, test_resize: ResizeConfig | None = None, seed: int = 0) -> str:
    """Store a parent with exits after 1, 2 and 3 layers and four categories."""
    model = random_model(ARCHITECTURE, seed)
    # "No object" never wins, so that every query takes part.
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -20.0
    manifest = parent_manifest(ARCHITECTURE, (1, 2, 3), CATEGORIES, test_resize=test_resize)
    files = {"model.safetensors": save_tensors(model.state_dict())}
    return store.put(manifest, files, names=["parent"]).digest


def put_gate(store: Store, parent: str | None, bias: list[float]) -> str:
    """Store a gate, with its table, that scores the exits alike for every image."""
    common: dict[str, Any] = {"schema_version": 1, "stage_config": {}, "dataset_fingerprints": {}}
    derived = derived_manifest(parent, (1, 2, 3), {"projected": 32})
    table = store.put(derived, {"train.parquet": b"table"}).digest
    gate = GateManifest(
        **common,
        inputs={"derived": table},
        exit_depths=(1, 2, 3),
        beta=0.0,
        feature="projected",
        metrics=gate_metrics(),
    )
    tensors = {"linear.weight": torch.zeros(3, 32), "linear.bias": torch.tensor(bias)}
    return store.put(gate, {"gate.safetensors": save_tensors(tensors)}, names=["gate"]).digest
