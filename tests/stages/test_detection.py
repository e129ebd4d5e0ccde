"""A small DETR from training to gate on a few drawn scenes, as boxes.

Expected values: the model run by hand on every image, and pycocotools on what it detects.
"""

from dataclasses import astuple, dataclass

import numpy as np
import pytest
import torch
from helpers_detection import Found, official_stats
from helpers_stages import run_stage

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import read_splits
from ecocli.artifacts.manifest import DerivedManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.any_architecture import require_segmentation
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import DeriveConfig
from ecocli.config.fit_gate import FitGateConfig
from ecocli.config.loading import resolve_config
from ecocli.config.recipes import train_parent_preset
from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.boxes import DetectionDataset
from ecocli.data.detection import class_indices, open_detection
from ecocli.errors import UsageError
from ecocli.inference.loading import restore_gate, restore_model
from ecocli.inference.predictor import ImagePrediction, predict_exits, predict_gated
from ecocli.metrics.box_matching import TrueBoxes
from ecocli.metrics.detection import DetectionTable
from ecocli.model.contracts import ExitModel
from ecocli.runtime.context import Runtime
from ecocli.scoring.batches import LabelledBatch, load_batch
from ecocli.scoring.score_boxes import BoxScorer
from ecocli.stages import derive, fit_gate, train_parent

EXITS = (1, 2, 3)


@dataclass(frozen=True)
class Bench:
    store: Store
    dataset: DatasetConfig
    parent: Artifact[ParentManifest]
    derived: Artifact[DerivedManifest]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("detection")
    settings = {
        "dataset": {
            "root": str(folder),
            "shapes": {"train": 8, "val": 6, "scenes": {"size": 64, "crowd": 1.0, "easy_weight": 3.0}},
        },
        "architecture": {
            "name": "detr-shapes", "hidden_dim": 32, "encoder_layers": 3, "decoder_layers": 2, "num_queries": 12,
        },
        "exit_depths": list(EXITS), "alpha": "depth", "exits_per_step": "all", "keep_deepest": False,
        "steps": 8, "batch_size": 4, "schedule": {"kind": "constant", "warmup_steps": 0}, "optimizer": {"lr": 2e-3},
    }  # fmt: skip
    config = resolve_config(TrainParentConfig, train_parent_preset(settings), settings)
    store = Store(folder / "store")
    parent = run_stage(train_parent, config, {}, store, Runtime.quiet())
    measured = DeriveConfig(dataset=config.dataset, batch_size=2)
    derived = run_stage(derive, measured, {"parent": parent.digest}, store, Runtime.quiet())
    return Bench(store, config.dataset, parent, derived)


@dataclass(frozen=True)
class Validation:
    """The validation split as the model sees it, batch by batch."""

    dataset: DetectionDataset
    model: ExitModel
    batches: list[LabelledBatch]
    truths: list[TrueBoxes]


@pytest.fixture(scope="module")
def validation(bench: Bench) -> Validation:
    dataset = open_detection(bench.dataset, "val")
    manifest = bench.parent.manifest
    weights = load_tensors(bench.parent.path_of("model.safetensors"))
    model = restore_model(manifest.architecture, weights, "cpu", bench.parent.digest)
    scorer = BoxScorer(class_indices(dataset.categories, 8), 8)
    pairs = [(0, 1), (2, 3), (4, 5)]
    batches = [load_batch(dataset, pair, bench.dataset.test_resize, model, "cpu", scorer.truth) for pair in pairs]
    return Validation(dataset, model, batches, [truth for batch in batches for truth in batch.truths])


def found_in(prediction: ImagePrediction) -> Found:
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
    counts = read_splits(bench.derived, ("val",), "res5")["val"].counts
    assert isinstance(counts, DetectionTable)
    return counts


def test_derive__any_assignment__equals_pycocotools_on_its_detections(bench: Bench, validation: Validation) -> None:
    table, found = val_table(bench), at_every_exit(validation)
    assert bench.derived.manifest.quality == "ap"
    for seed in range(4):
        assignment = np.random.default_rng(seed).integers(0, 3, 6)
        expected = official_stats(validation.truths, [row[e] for row, e in zip(found, assignment, strict=True)], 8)
        quality = [-1.0 if v is None else v for v in astuple(table.box_quality(np.eye(3)[assignment]))]
        assert quality == pytest.approx(expected, abs=1e-9)
    # Every query of every image at every exit is there; AP that is not zero is compared in the metric's own tests.
    assert len(table.score) == 6 * 3 * 12


def test_fit_gate__gated_run__equals_its_table(bench: Bench, validation: Validation) -> None:
    config = FitGateConfig(beta=0.02, cost="depth", bootstrap_replicates=20)
    gate = run_stage(fit_gate, config, {"derived": bench.derived.digest}, bench.store, Runtime.quiet())
    manifest = gate.manifest
    assert manifest.task == "detection"
    fitted = restore_gate(load_tensors(gate.path_of("gate.safetensors")), manifest, "cpu", gate.digest)
    predictions = [p for batch in validation.batches for p in predict_gated(validation.model, fitted, batch.images)]
    assignment = np.array([EXITS.index(p.exit_depth) for p in predictions])
    expected = official_stats(validation.truths, [found_in(p) for p in predictions], 8)
    assert val_table(bench).assignment_quality(assignment) == pytest.approx(expected[0], abs=1e-9)
    assert manifest.metrics.gate.pq == pytest.approx(expected[0], abs=1e-9)
    assert manifest.metrics.gate.exit_shares == pytest.approx(np.bincount(assignment, minlength=3) / 6)
    fixed = [val_table(bench).assignment_quality(np.full(6, e)) for e in range(3)]
    assert [exit_.pq for exit_ in manifest.metrics.fixed] == pytest.approx(fixed)


@pytest.mark.parametrize("quality", ["box_pq", "loss"])
def test_derive__other_quality__the_manifest_names_it(bench: Bench, quality: str) -> None:
    config = DeriveConfig(dataset=bench.dataset, batch_size=2, splits=("val",), box_quality=quality)
    derived = run_stage(derive, config, {"parent": bench.parent.digest}, bench.store, Runtime.quiet())
    assert derived.manifest.quality == quality
    table = read_splits(derived, ("val",), "res5")["val"]
    if quality == "loss":
        # Minus the loss over its mean: the mean is -1 and nothing is positive.
        assert table.quality.mean() == pytest.approx(-1.0)
        assert (table.quality < 0).all()
    else:
        assert ((table.quality >= 0) & (table.quality <= 1)).all()
    # The detections do not depend on what quality is.
    ones = np.full((6, 3), 1 / 3)
    assert table.counts.mixture_quality(ones[0]) == val_table(bench).mixture_quality(ones[0])


def test_require_segmentation__detector__says_where_it_is_judged(bench: Bench) -> None:
    with pytest.raises(UsageError, match="detr-shapes is a detector, and `eco eval` takes segmentations only"):
        require_segmentation(bench.parent.manifest.architecture, "eval")


def test_train_parent_config__detector_with_segmentation_losses__refused(bench: Bench) -> None:
    settings = {"architecture": {"name": "detr-shapes"}, "loss": {"class_weight": 1.0, "mask_weight": 5.0}}
    preset = {**train_parent_preset(settings), "loss": {}}
    with pytest.raises(UsageError, match=r"the section \[loss\] is not that of detr-shapes"):
        resolve_config(TrainParentConfig, preset, settings)


def test_train_parent_preset__detr_on_coco__the_original_recipe() -> None:
    settings = {"dataset": {"name": "coco"}, "architecture": {"name": "detr-r50"}}
    config = resolve_config(TrainParentConfig, train_parent_preset(settings), settings)
    assert (config.exit_depths, config.architecture.num_classes) == ((2, 3, 4, 5, 6), 91)
    assert (config.optimizer.lr, config.optimizer.clip_norm, config.optimizer.weight_decay) == (1e-4, 0.1, 1e-4)
    # 300 epochs of COCO's 118,287 images, 16 a step.
    assert config.steps == -(-300 * 118_287 // 16)
    assert config.dataset.augmentation.scale_range is None
    assert config.dataset.augmentation.window is not None
