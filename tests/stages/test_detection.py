"""A small DETR from training to gate and evaluation, on boxes that it nearly finds.

Expected values: the model run by hand on every image, and pycocotools on what it detects.
"""

import contextlib
import io
import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_detection import official_stats
from helpers_detector import (
    EXITS,
    Bench,
    Validation,
    at_every_exit,
    evaluate_config,
    evaluated,
    fitted,
    found_in,
    gated,
    make_bench,
    stats_of,
    val_table,
    validation_of,
)
from helpers_stages import run_stage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ecocli.__main__ import main
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import read_splits
from ecocli.artifacts.detection_columns import detections_of, read_detections
from ecocli.artifacts.manifest import EvaluationManifest, GateManifest
from ecocli.artifacts.tables import read_table
from ecocli.config.derive import DeriveConfig
from ecocli.data.detection import class_indices
from ecocli.errors import UsageError
from ecocli.inference.predictor import ImagePrediction, batch_geometry
from ecocli.metrics.assignment import oracle_assignment
from ecocli.runtime.context import Runtime
from ecocli.scoring.score_boxes import BoxScorer
from ecocli.stages import derive, evaluate
from ecocli.training.metrics_log import evaluation_lines, parse_metrics


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
