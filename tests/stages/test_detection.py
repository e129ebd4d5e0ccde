"""A small DETR from training to gate, evaluation, report and predictions, on boxes that it nearly finds.

Expected values: the model run by hand on every image, and pycocotools on what it detects.
"""

import contextlib
import io
import json
import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_detection import Found, make_own_boxes, official_stats
from helpers_stages import run_stage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ecocli.__main__ import main
from ecocli.api import load
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import read_splits
from ecocli.artifacts.detection_columns import detections_of, read_detections
from ecocli.artifacts.manifest import DerivedManifest, EvaluationManifest, GateManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.summaries import EvaluationRow
from ecocli.artifacts.tables import read_table
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.compare import CompareConfig
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import DeriveConfig
from ecocli.config.evaluate import EvaluateConfig, EvaluateExecutionConfig
from ecocli.config.export_weights import ExportWeightsConfig
from ecocli.config.fit_gate import FitGateConfig
from ecocli.config.import_weights import ImportWeightsConfig
from ecocli.config.loading import resolve_config
from ecocli.config.predict import PredictConfig
from ecocli.config.recipes import train_parent_preset
from ecocli.config.report import ReportConfig
from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.boxes import DetectionDataset
from ecocli.data.detection import class_indices, open_detection
from ecocli.errors import UsageError
from ecocli.inference.loading import restore_gate, restore_model
from ecocli.inference.predictor import ImagePrediction, batch_geometry, predict_exits, predict_gated
from ecocli.metrics.assignment import oracle_assignment
from ecocli.metrics.box_matching import TrueBoxes
from ecocli.metrics.detection import DetectionTable
from ecocli.model.contracts import ExitModel
from ecocli.runtime.context import Runtime
from ecocli.scoring.batches import LabelledBatch, load_batch
from ecocli.scoring.score_boxes import BoxScorer
from ecocli.stages import (
    compare,
    derive,
    evaluate,
    export_weights,
    fit_gate,
    import_weights,
    predict,
    report,
    train_parent,
)
from ecocli.training.metrics_log import evaluation_lines, parse_metrics

EXITS = (1, 2, 3)


@dataclass(frozen=True)
class Bench:
    store: Store
    dataset: DatasetConfig
    parent: Artifact[ParentManifest]
    derived: Artifact[DerivedManifest]

    @property
    def instances(self) -> str:
        """Path of the instance annotations of the validation split."""
        return str(Path(self.dataset.name).parent / "val.json")


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
        assert 0.05 < expected[0] < 0.95
    # Every query of every image at every exit is there.
    assert len(table.score) == 6 * 3 * 12


@pytest.fixture(scope="module")
def gate(bench: Bench) -> Artifact[GateManifest]:
    config = FitGateConfig(beta=0.02, cost="depth", bootstrap_replicates=20)
    return run_stage(fit_gate, config, {"derived": bench.derived.digest}, bench.store, Runtime.quiet())


def gated(validation: Validation, gate: Artifact[GateManifest]) -> tuple[list[ImagePrediction], np.ndarray]:
    """Predictions of the gated run, and the exit index of each."""
    fitted = restore_gate(load_tensors(gate.path_of("gate.safetensors")), gate.manifest, "cpu", gate.digest)
    predictions = [p for batch in validation.batches for p in predict_gated(validation.model, fitted, batch.images)]
    return predictions, np.array([EXITS.index(p.exit_depth) for p in predictions])


def test_fit_gate__gated_run__equals_its_table(
    bench: Bench, validation: Validation, gate: Artifact[GateManifest]
) -> None:
    manifest = gate.manifest
    assert manifest.task == "detection"
    predictions, assignment = gated(validation, gate)
    expected = official_stats(validation.truths, [found_in(p) for p in predictions], 8)
    assert expected[0] > 0.05
    assert val_table(bench).assignment_quality(assignment) == pytest.approx(expected[0], abs=1e-9)
    assert manifest.metrics.gate.pq == pytest.approx(expected[0], abs=1e-9)
    assert manifest.metrics.gate.exit_shares == pytest.approx(np.bincount(assignment, minlength=3) / 6)
    fixed = [val_table(bench).assignment_quality(np.full(6, e)) for e in range(3)]
    assert [exit_.pq for exit_ in manifest.metrics.fixed] == pytest.approx(fixed)
    assert len(set(fixed)) == 3


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_predict_at__exits_mixed_within_batches__counts_and_ap_of_the_table(
    bench: Bench, validation: Validation, seed: int
) -> None:
    assignment = np.random.default_rng(seed).permutation([0, 1, 2, 0, 1, 2])
    assert any(a != b for a, b in assignment.reshape(3, 2))
    table, scorer = val_table(bench), BoxScorer(class_indices(validation.dataset.categories, 8), 8)
    results = []
    for batch, exits in zip(validation.batches, assignment.reshape(3, 2), strict=True):
        features = validation.model.extract(batch.images.images, batch.images.image_sizes)
        final = validation.model.predict_at(features, torch.tensor([EXITS[e] for e in exits]))
        for b, geometry in enumerate(batch_geometry(batch.images)):
            id_ = batch.images.image_ids[b]
            prediction = ImagePrediction(id_, EXITS[exits[b]], geometry, final.pred_logits[b], final.regions[b])
            results.append([scorer(prediction, batch.truths[b]).counts])
    run = detections_of(results)
    rows = np.concatenate(
        [np.flatnonzero((table.image == n) & (table.exit_index == e)) for n, e in enumerate(assignment)]
    )
    for name in ("image", "class_index", "matched", "ignored"):
        np.testing.assert_array_equal(getattr(run, name), getattr(table, name)[rows], name)
    np.testing.assert_allclose(run.score, table.score[rows], rtol=1e-6)
    for name in ("true_image", "true_class", "true_counts"):
        np.testing.assert_array_equal(getattr(run, name), getattr(table, name), name)
    expected = table.assignment_quality(assignment)
    assert run.assignment_quality(np.zeros(6, np.int64)) == pytest.approx(expected, abs=1e-9)
    assert expected > 0.05


def test_eval__check_with_pycocotools__compares_and_objects(
    bench: Bench,
    gate: Artifact[GateManifest],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["eval", "--store", str(bench.store.root), "--parent", bench.parent.digest, "--threads", "1"]
    words += ["--dataset", bench.dataset.name, "--timed-images", "0", "--set", "bootstrap_replicates=20", "--json"]
    for choice, row in ((["--gate", gate.digest], "gate"), (["--no-gate"], "exit 3")):
        assert main([*words, *choice, "--check-with", "pycocotools"]) == 0
        shown = capsys.readouterr()
        ap = next(found["ap"] for found in json.loads(shown.out)["rows"] if found["name"] == row)
        assert json.loads(shown.out)["pycocotools_ap"] == pytest.approx(ap, abs=1e-9)
        assert "finds the same ap, ap50, ap75, ap_small, ap_medium, ap_large" in shown.err
    monkeypatch.setattr(
        "ecocli.scoring.official_boxes.COCOeval.summarize", lambda self: setattr(self, "stats", [0] * 6)
    )
    assert main([*words, "--no-gate", "--check-with", "pycocotools"]) == 1
    assert "but pycocotools finds 0.0 in the same predictions" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    assert main([*words, "--no-gate", "--check-with", "panopticapi"]) == 2
    assert "panopticapi does not score what this parent predicts; pycocotools does." in capsys.readouterr().err


def evaluate_config(bench: Bench, **settings: Any) -> EvaluateConfig:
    execution = EvaluateExecutionConfig(timed_images=2)
    return EvaluateConfig(
        dataset=bench.dataset, batch_size=2, metrics=(), bootstrap_replicates=20, execution=execution, **settings
    )


@pytest.fixture(scope="module")
def evaluation(bench: Bench, gate: Artifact[GateManifest]) -> Artifact[EvaluationManifest]:
    inputs = {"parent": bench.parent.digest, "gate": gate.digest}
    return run_stage(evaluate, evaluate_config(bench), inputs, bench.store, Runtime.quiet())


def stats_of(row: EvaluationRow) -> list[float]:
    values = (row.ap, row.ap50, row.ap75, row.ap_small, row.ap_medium, row.ap_large)
    return [-1.0 if value is None else value for value in values]


def test_evaluate__exits_and_gate__the_six_values_of_pycocotools(
    bench: Bench, validation: Validation, gate: Artifact[GateManifest], evaluation: Artifact[EvaluationManifest]
) -> None:
    summary, found = evaluation.manifest.summary, at_every_exit(validation)
    assert (summary.task, summary.measure, summary.images) == ("detection", "AP", 6)
    rows = summary.by_name
    assert list(rows) == ["exit 1", "exit 2", "exit 3", "gate", "random", "oracle"]
    for index, depth in enumerate(EXITS):
        expected = official_stats(validation.truths, [row[index] for row in found], 8)
        assert stats_of(rows[f"exit {depth}"]) == pytest.approx(expected, abs=1e-9)
    predictions, assignment = gated(validation, gate)
    run = official_stats(validation.truths, [found_in(p) for p in predictions], 8)
    assert stats_of(rows["gate"]) == pytest.approx(run, abs=1e-9)
    table, quality = val_table(bench), read_splits(bench.derived, ("val",), "res5")["val"].quality
    assert rows["oracle"].ap == pytest.approx(table.assignment_quality(oracle_assignment(quality)), abs=1e-9)
    shares = np.bincount(assignment, minlength=3) / 6
    assert rows["random"].ap == pytest.approx(table.mixture_quality(shares), abs=1e-9)
    lead = summary.gate_lead
    assert lead is not None
    assert lead.control_pq == pytest.approx(table.mixture_quality(np.array(lead.mixture)), abs=1e-9)
    assert lead.lead == pytest.approx(run[0] - lead.control_pq, abs=1e-9)


def test_evaluate__predictions_and_tables__say_what_the_rows_say(
    bench: Bench, gate: Artifact[GateManifest], evaluation: Artifact[EvaluationManifest]
) -> None:
    truth = COCO()
    truth.dataset = json.loads(Path(bench.instances).read_text())
    results = json.loads(evaluation.path_of("detections.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        official = COCOeval(truth, truth.loadRes(results), "bbox")
        official.evaluate()
        official.accumulate()
        official.summarize()
    rows = evaluation.manifest.summary.by_name
    assert stats_of(rows["gate"]) == pytest.approx(official.stats[:6].tolist(), abs=1e-9)
    images = read_table(evaluation.path_of("images.parquet"))
    table = read_detections(images.combine_chunks(), 3)
    for index, depth in enumerate(EXITS):
        assert table.assignment_quality(np.full(6, index)) == pytest.approx(rows[f"exit {depth}"].ap, abs=1e-9)
    classes = [row for row in read_table(evaluation.path_of("classes.parquet")).to_pylist() if row["row"] == "exit 3"]
    assert np.mean([row["ap"] for row in classes if row["ap"] is not None]) == pytest.approx(rows["exit 3"].ap)


def test_evaluate__rules_of_masks__are_refused_of_boxes(bench: Bench) -> None:
    with pytest.raises(UsageError, match=r"predicts boxes, whose AP follows COCO's rules. Leave --rules out"):
        run_stage(evaluate, evaluate_config(bench, rules="cityscapes"), {"parent": bench.parent.digest}, bench.store)


def test_evaluate__gate_alone__controls_of_the_table_and_the_same_rows(
    bench: Bench, gate: Artifact[GateManifest], evaluation: Artifact[EvaluationManifest]
) -> None:
    config = evaluate_config(bench, every_exit=False, predictions=False)
    inputs = {"parent": bench.parent.digest, "gate": gate.digest}
    found = run_stage(evaluate, config, inputs, bench.store, Runtime.quiet())
    assert found.manifest.inputs["derived"] == bench.derived.digest
    for name, row in evaluation.manifest.summary.by_name.items():
        assert stats_of(found.manifest.summary.by_name[name]) == pytest.approx(stats_of(row), abs=1e-9)
    with pytest.raises(UsageError, match="The metrics ap, miou are none of detr-shapes"):
        run_stage(evaluate, config.model_copy(update={"metrics": ("miou", "ap")}), inputs, bench.store)


def test_report__of_detections__labels_say_ap(
    bench: Bench, evaluation: Artifact[EvaluationManifest], tmp_path: Path
) -> None:
    config = ReportConfig(out=str(tmp_path / "out"), examples=1)
    page = report.run(config, {"evaluation": evaluation.digest}, bench.store, Runtime.quiet())
    text = page.index.read_text()
    assert "AP of the gate" in text
    assert "AP small" in text
    assert "PQ" not in re.sub(r"base64,[^\"]*", "", text)
    assert [path.name for path in page.pictures] == ["tradeoff.png", "exits.png", "example-1.png"]


def test_predict__detector__cocos_results_and_framed_boxes(
    bench: Bench, validation: Validation, gate: Artifact[GateManifest], tmp_path: Path
) -> None:
    source = validation.dataset.image_path(validation.dataset.records[0])
    inputs = {"parent": bench.parent.digest, "gate": gate.digest}
    config = PredictConfig(images=(str(source),), out=str(tmp_path / "out"), test_resize=bench.dataset.test_resize)
    found = predict.run(config, inputs, bench.store, Runtime.quiet())
    found.check()
    (photo,) = found.photos
    expected = found_in(gated(validation, gate)[0][0])
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [entry["score"] for entry in entries] == pytest.approx(expected.score.tolist(), abs=1e-6)
    np.testing.assert_allclose([entry["bbox"] for entry in entries], expected.boxes, atol=1e-3)
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(str(tmp_path / "out" / "images.json")).loadRes(entries).anns) == 12
    assert photo.files["overlay"].is_file()
    with pytest.raises(UsageError, match=r"predicts no masks.* Leave --semantic out"):
        predict.plan(config.model_copy(update={"semantic": True}), inputs, bench.store)


def test_train_parent__evaluated_in_between__ap_of_every_exit_in_the_metrics(bench: Bench) -> None:
    lines = evaluation_lines(parse_metrics(bench.parent.path_of("metrics.jsonl").read_text()))
    assert [line["step"] for line in lines] == [4, 8]
    for line in lines:
        assert list(line["evaluation"]["exits"]) == ["1", "2", "3"]
        assert all(0.0 <= values["ap"] <= values["ap50"] for values in line["evaluation"]["exits"].values())


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


def test_load__detector__its_detections_best_first_and_no_maps(
    bench: Bench, validation: Validation, gate: Artifact[GateManifest]
) -> None:
    model = load(bench.parent.digest, gate=gate.digest, store=bench.store.root)
    image = validation.dataset.load_image(validation.dataset.records[0])
    result, prediction = model(image), gated(validation, gate)[0][0]
    assert result.exit_depth == prediction.exit_depth
    found = prediction.detections()
    order = np.argsort(-found.score, kind="stable")
    assert [one.score for one in result.detections] == pytest.approx(found.score[order].tolist(), abs=1e-6)
    np.testing.assert_allclose([one.box for one in result.detections], found.boxes[order], atol=1e-3)
    for attribute in ("panoptic", "semantic", "instances", "mask_logits"):
        with pytest.raises(UsageError, match="detr-shapes is a detector, which predicts boxes"):
            getattr(result, attribute)


@pytest.mark.parametrize("depth", [2, 3])
def test_export__what_is_imported_again__the_parent_at_that_exit(bench: Bench, depth: int, tmp_path: Path) -> None:
    file = tmp_path / "detr.pth"
    config = ExportWeightsConfig(out=str(file), format="original", exit_depth=depth)
    export_weights.run(config, {"parent": bench.parent.digest}, bench.store, Runtime.quiet())
    # As the original keeps them: under "model", with torchvision's names of the backbone.
    names = torch.load(file, weights_only=True)["model"].keys()
    assert "backbone.0.body.layer1.0.conv1.weight" in names
    again = run_stage(
        import_weights, ImportWeightsConfig(source=str(file), categories=bench.instances), {}, bench.store
    )
    architecture = again.manifest.architecture
    assert (architecture.kind, architecture.encoder_layers, again.manifest.exit_depths) == ("detr", depth, (depth,))
    assert [one.name for one in again.manifest.categories] == [one.name for one in bench.parent.manifest.categories]
    found, whole = (load_tensors(one.path_of("model.safetensors")) for one in (again, bench.parent))
    left = {
        name for name in whole if name.startswith(tuple(f"transformer.encoder.layers.{i}." for i in range(depth, 3)))
    }
    assert found.keys() == whole.keys() - left
    assert all(torch.equal(tensor, whole[name]) for name, tensor in found.items())


def test_export__detector_that_transformers_lacks__refused(bench: Bench, tmp_path: Path) -> None:
    config = ExportWeightsConfig(out=str(tmp_path / "folder"), format="hf", exit_depth=3)
    with pytest.raises(UsageError, match="transformers builds a DETR on a ResNet with batch norm"):
        export_weights.run(config, {"parent": bench.parent.digest}, bench.store, Runtime.quiet())


def test_compare__detectors__rows_are_the_tables_ap(
    bench: Bench, gate: Artifact[GateManifest], evaluation: Artifact[EvaluationManifest]
) -> None:
    contestant = compare.Contestant("detr", bench.parent.digest, (gate.digest,))
    found = compare.run(CompareConfig(split="val"), [contestant], bench.store)
    assert (found.task, found.images) == ("detection", 6)
    rows = evaluation.manifest.summary.by_name
    expected = [*(rows[f"exit {depth}"].ap for depth in EXITS), rows["gate"].ap]
    assert [row.pq for row in found.rows] == pytest.approx(expected, abs=1e-9)
    whole = bench.parent.manifest
    other = bench.store.put(whole.model_copy(update={"steps": 9, "files": ()}), {"model.safetensors": b"weights"})
    tables = {name: bench.derived.path_of(name) for name in ("train.parquet", "val.parquet")}
    changed = {"task": "panoptic", "inputs": {"parent": other.digest}, "files": ()}
    bench.store.put(bench.derived.manifest.model_copy(update=changed), tables)
    with pytest.raises(UsageError, match=r"different tasks and measured by different numbers \(detr: AP, m2f: PQ\)"):
        compare.run(CompareConfig(split="val"), [contestant, compare.Contestant("m2f", other.digest, ())], bench.store)
