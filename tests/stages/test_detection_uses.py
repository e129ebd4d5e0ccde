"""A small DETR and its gate in use: report, pictures, Python, weights out and in, comparison."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_detector import (
    EXITS,
    Bench,
    Validation,
    evaluated,
    fitted,
    found_in,
    gated,
    make_bench,
    validation_of,
)
from helpers_stages import run_stage
from pycocotools.coco import COCO

from ecocli.api import load
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import EvaluationManifest, GateManifest
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.compare import CompareConfig
from ecocli.config.export_weights import ExportWeightsConfig
from ecocli.config.import_weights import ImportWeightsConfig
from ecocli.config.loading import resolve_config
from ecocli.config.predict import PredictConfig
from ecocli.config.recipes import train_parent_preset
from ecocli.config.report import ReportConfig
from ecocli.config.train_parent import TrainParentConfig
from ecocli.errors import UsageError
from ecocli.runtime.context import Runtime
from ecocli.stages import (
    compare,
    export_weights,
    import_weights,
    predict,
    report,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("detection"))


@pytest.fixture(scope="module")
def validation(bench: Bench) -> Validation:
    return validation_of(bench)


@pytest.fixture(scope="module")
def gate(bench: Bench) -> Artifact[GateManifest]:
    return fitted(bench)


@pytest.fixture(scope="module")
def evaluation(bench: Bench, gate: Artifact[GateManifest]) -> Artifact[EvaluationManifest]:
    return evaluated(bench, gate)


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
