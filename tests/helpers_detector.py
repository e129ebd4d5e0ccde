"""A small DETR from training to gate and evaluation, on boxes that it nearly finds, and what it detects there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers_detection import Found, make_own_boxes
from helpers_stages import run_stage

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import read_splits
from ecocli.artifacts.manifest import DerivedManifest, EvaluationManifest, GateManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.summaries import EvaluationRow
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import DeriveConfig
from ecocli.config.evaluate import EvaluateConfig, EvaluateExecutionConfig
from ecocli.config.fit_gate import FitGateConfig
from ecocli.config.loading import resolve_config
from ecocli.config.recipes import train_parent_preset
from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.boxes import DetectionDataset
from ecocli.data.detection import class_indices, open_detection
from ecocli.inference.loading import restore_gate, restore_model
from ecocli.inference.predictor import ImagePrediction, predict_exits, predict_gated
from ecocli.metrics.box_matching import TrueBoxes
from ecocli.metrics.detection import DetectionTable
from ecocli.model.contracts import ExitModel
from ecocli.runtime.context import Runtime
from ecocli.scoring.batches import LabelledBatch, load_batch
from ecocli.scoring.score_boxes import BoxScorer
from ecocli.stages import (
    derive,
    evaluate,
    fit_gate,
    train_parent,
)

EXITS = (1, 2, 3)


@dataclass(frozen=True)
class Bench:
    """What everything begins with: the detector, its data and its table."""

    store: Store
    dataset: DatasetConfig
    parent: Artifact[ParentManifest]
    derived: Artifact[DerivedManifest]

    @property
    def instances(self) -> str:
        """Path of the instance annotations of the validation split."""
        return str(Path(self.dataset.name).parent / "val.json")


def make_bench(folder: Path) -> Bench:
    """Train a detector, draw boxes near what it finds, and derive its table."""
    settings = {
        "dataset": {
            "root": str(folder),
            "shapes": {"train": 8, "val": 6, "scenes": {"size": 64, "crowd": 1.0, "easy_weight": 3.0}},
        },
        "architecture": {
            "name": "detr-shapes", "hidden_dim": 32, "encoder_layers": 3, "decoder_layers": 2, "num_queries": 12,
        },
        "exit_depths": list(EXITS), "alpha": "depth", "exits_per_step": "all", "keep_deepest": False,
        "evaluation": {"every": 4, "images": 3},
        "steps": 8, "batch_size": 4, "schedule": {"kind": "constant", "warmup_steps": 0}, "optimizer": {"lr": 2e-3},
    }  # fmt: skip
    config = resolve_config(TrainParentConfig, train_parent_preset(settings), settings)
    store = Store(folder / "store")
    parent = run_stage(train_parent, config, {}, store, Runtime.quiet())
    model = restore_model(parent.manifest.architecture, load_tensors(parent.path_of("model.safetensors")), "cpu", "it")
    own = make_own_boxes(config.dataset, model, EXITS, folder / "own")
    measured = DeriveConfig(dataset=own, batch_size=2)
    derived = run_stage(derive, measured, {"parent": parent.digest}, store, Runtime.quiet())
    return Bench(store, own, parent, derived)


@dataclass(frozen=True)
class Validation:
    """The validation split as the model sees it, batch by batch."""

    dataset: DetectionDataset
    model: ExitModel
    batches: list[LabelledBatch]
    truths: list[TrueBoxes]


def validation_of(bench: Bench) -> Validation:
    """The validation split, two images a batch."""
    dataset = open_detection(bench.dataset, "val")
    manifest = bench.parent.manifest
    weights = load_tensors(bench.parent.path_of("model.safetensors"))
    model = restore_model(manifest.architecture, weights, "cpu", bench.parent.digest)
    scorer = BoxScorer(class_indices(dataset.categories, 8), 8)
    pairs = [(0, 1), (2, 3), (4, 5)]
    batches = [load_batch(dataset, pair, bench.dataset.test_resize, model, "cpu", scorer.truth) for pair in pairs]
    return Validation(dataset, model, batches, [truth for batch in batches for truth in batch.truths])


def found_in(prediction: ImagePrediction) -> Found:
    """The detections of a prediction."""
    detections = prediction.detections()
    return Found(detections.class_index, detections.score, detections.boxes)


@torch.no_grad()
def at_every_exit(validation: Validation) -> list[list[Found]]:
    """Detections [image][exit]."""
    rows: list[list[Found]] = []
    for batch in validation.batches:
        features = validation.model.extract(batch.images.images, batch.images.image_sizes)
        exits = list(predict_exits(validation.model, features, batch.images, EXITS))
        rows += [[found_in(predictions[place]) for predictions in exits] for place in range(2)]
    return rows


def val_table(bench: Bench) -> DetectionTable:
    """The table of the validation split."""
    counts = read_splits(bench.derived, ("val",), "res5")["val"].counts
    assert isinstance(counts, DetectionTable)
    return counts


def fitted(bench: Bench) -> Artifact[GateManifest]:
    """A gate by the table."""
    config = FitGateConfig(beta=0.02, cost="depth", bootstrap_replicates=20)
    return run_stage(fit_gate, config, {"derived": bench.derived.digest}, bench.store, Runtime.quiet())


def gated(validation: Validation, gate: Artifact[GateManifest]) -> tuple[list[ImagePrediction], np.ndarray]:
    """Predictions of the gated run, and the exit index of each."""
    restored = restore_gate(load_tensors(gate.path_of("gate.safetensors")), gate.manifest, "cpu", gate.digest)
    predictions = [p for batch in validation.batches for p in predict_gated(validation.model, restored, batch.images)]
    return predictions, np.array([EXITS.index(p.exit_depth) for p in predictions])


def evaluate_config(bench: Bench, **settings: Any) -> EvaluateConfig:
    """Small batches, few replicates, two timed images."""
    execution = EvaluateExecutionConfig(timed_images=2)
    return EvaluateConfig(
        dataset=bench.dataset, batch_size=2, metrics=(), bootstrap_replicates=20, execution=execution, **settings
    )


def evaluated(bench: Bench, gate: Artifact[GateManifest]) -> Artifact[EvaluationManifest]:
    """Every exit and the gate on the validation split."""
    inputs = {"parent": bench.parent.digest, "gate": gate.digest}
    return run_stage(evaluate, evaluate_config(bench), inputs, bench.store, Runtime.quiet())


def stats_of(row: EvaluationRow) -> list[float]:
    """The six values of a row; -1 where it has none."""
    values = (row.ap, row.ap50, row.ap75, row.ap_small, row.ap_medium, row.ap_large)
    return [-1.0 if value is None else value for value in values]
