"""The evaluation as a whole, on a tiny parent and gate: rows, files, resumption, reuse and refusals."""

import json
import zipfile

import numpy as np
import pytest
import torch
from helpers_columns import column_docs
from helpers_evaluation import IMAGES, Bench
from helpers_inference import EXIT_DEPTHS, RULE, tiny_model
from helpers_stages import run_stage
from helpers_store import derived_manifest
from PIL import Image

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.count_columns import read_counts
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE
from ecocli.artifacts.manifest import DerivedManifest, EvaluationManifest, GateManifest, ParentManifest
from ecocli.artifacts.tables import read_table
from ecocli.artifacts.tensors import load_tensors, save_tensors
from ecocli.config.dataset import ResizeConfig
from ecocli.config.evaluate import EvaluateExecutionConfig
from ecocli.data.batching import ImageBatch
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import decode_id_map
from ecocli.errors import ArtifactError, DataError, InterruptedRunError
from ecocli.inference.predictor import ExitGate, ImagePrediction
from ecocli.metrics.panoptic_quality import panoptic_quality, sum_counts
from ecocli.metrics.scorecard import image_qualities
from ecocli.model.mask2former import Mask2Former
from ecocli.runtime.context import Runtime
from ecocli.scoring import part_scorer as scoring
from ecocli.scoring import timing
from ecocli.scoring.batches import load_batch
from ecocli.scoring.evaluation_tables import read_exit_table
from ecocli.scoring.score_exits import score_exits
from ecocli.stages import evaluate


@pytest.fixture(scope="module")
def report(bench: Bench) -> Artifact[EvaluationManifest]:
    return run_stage(evaluate, bench.config(), bench.inputs, bench.store, Runtime.quiet())


def rows_of(report: Artifact[EvaluationManifest]) -> dict[str, dict[str, object]]:
    return {row.name: row.model_dump(mode="json") for row in report.manifest.summary.rows}


def test_run__fixed_exits__have_the_pq_of_counts_added_image_by_image(
    bench: Bench, report: Artifact[EvaluationManifest]
) -> None:
    dataset, model = open_dataset(bench.dataset, "val"), tiny_model()
    counts = [[] for _ in EXIT_DEPTHS]
    for positions in ((0, 1), (2, 5), (3, 4)):  # two images of one padded size
        batch = load_batch(dataset, positions, ResizeConfig(), model, "cpu")
        for row in score_exits(model, batch.images, batch.truths, EXIT_DEPTHS, RULE):
            for exit_index, one in enumerate(row.counts):
                counts[exit_index].append(one)
    rows = rows_of(report)
    for exit_index, depth in enumerate(EXIT_DEPTHS):
        quality = panoptic_quality(sum_counts(counts[exit_index], 13), RULE.is_thing)
        row = rows[f"exit {depth}"]
        assert quality.pq is not None
        assert 0.5 < quality.pq < 1.0
        # The counts are the same; the evaluation adds them in the data set's order.
        assert (row["pq"], row["sq"], row["rq"]) == pytest.approx((quality.pq, quality.sq, quality.rq), abs=1e-12)
        assert (row["pq_things"], row["pq_stuff"]) == pytest.approx((quality.things.pq, quality.stuff.pq), abs=1e-12)


def test_run__rows__hold_gate_and_all_controls(bench: Bench, report: Artifact[EvaluationManifest]) -> None:
    rows = rows_of(report)
    assert list(rows) == ["exit 1", "exit 2", "exit 3", "gate", "random", "oracle"]
    shares = [bench.gate_depths.count(depth) / IMAGES for depth in EXIT_DEPTHS]
    assert rows["gate"]["exit_shares"] == rows["random"]["exit_shares"] == pytest.approx(shares)
    costs = [rows[f"exit {depth}"]["gflops"] for depth in EXIT_DEPTHS]
    assert costs == sorted(costs)
    expected = sum(share * cost for share, cost in zip(shares, costs, strict=True))
    assert rows["random"]["gflops"] == pytest.approx(expected)
    # 128 features times 3 exits, in GFLOPs: what the gate itself costs.
    assert rows["gate"]["gflops"] == pytest.approx(expected + 128 * 3 / 1e9, abs=1e-12)
    assert rows["random"]["ap"] is None
    assert all(row["miou"] is not None for row in rows.values())
    assert all(rows[name]["ap"] is not None for name in ("exit 1", "gate", "oracle"))


def test_run__files__document_their_columns_and_agree_with_the_rows(
    bench: Bench, report: Artifact[EvaluationManifest]
) -> None:
    images = read_table(report.path_of("images.parquet"))
    assert images["gate_depth"].to_pylist() == list(bench.gate_depths)
    assert images.num_rows == IMAGES
    assert {len(pq) for pq in images["pq"].to_pylist()} == {len(EXIT_DEPTHS)}
    classes = read_table(report.path_of("classes.parquet")).to_pylist()
    for name, row in rows_of(report).items():
        scored = [entry["pq"] for entry in classes if entry["row"] == name and entry["pq"] is not None]
        assert sum(scored) / len(scored) == pytest.approx(row["pq"], abs=1e-12)
    assert set(column_docs(images.schema)) == set(images.column_names)
    with zipfile.ZipFile(report.path_of("predictions.zip")) as archive:
        assert len(json.loads(archive.read("panoptic_pred.json"))["annotations"]) == IMAGES
        assert len(archive.namelist()) == IMAGES + 1


def test_run__same_request__is_reused_under_both_names(bench: Bench, report: Artifact[EvaluationManifest]) -> None:
    again = run_stage(evaluate, bench.config(), bench.inputs, bench.store, Runtime.quiet(), names=["mine"])
    assert again.digest == report.digest
    names = bench.store.names()
    assert names["evaluation"] == names["mine"] == report.digest


def test_run__interrupted_and_forced_again__gives_the_same_digest(
    bench: Bench, report: Artifact[EvaluationManifest]
) -> None:
    runtime = Runtime.quiet()
    runtime.stop.request("SIGUSR1")
    with pytest.raises(InterruptedRunError, match="after 0 of 3 parts of the evaluation; the same command begins anew"):
        run_stage(evaluate, bench.config(), bench.inputs, bench.store, runtime, force=True)
    again = run_stage(evaluate, bench.config(), bench.inputs, bench.store, force=True)
    assert again.digest == report.digest


def test_run__timings_and_execution__stay_out_of_the_digest(
    bench: Bench, report: Artifact[EvaluationManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[str, ...]] = []
    original = timing.predict_gated

    def noted(model: Mask2Former, gate: ExitGate, batch: ImageBatch) -> list[ImagePrediction]:
        timed.append(tuple(batch.image_ids))
        return original(model, gate, batch)

    monkeypatch.setattr(timing, "predict_gated", noted)
    execution = EvaluateExecutionConfig(timed_images=3, part_images=100)
    again = run_stage(
        evaluate, bench.config(execution=execution), bench.inputs, bench.store, Runtime.quiet(), force=True
    )
    assert again.digest == report.digest
    measured = bench.store.read_provenance(again.digest).ms_per_image
    assert set(measured) == {"exit 1", "exit 2", "exit 3", "gate"}
    assert all(value > 0 for value in measured.values())
    # Three images: a batch of two and one of the next batch, once to warm up and three times measured.
    image_ids = open_dataset(bench.dataset, "val").records.image_ids
    assert timed == 4 * [(image_ids[0], image_ids[1]), (image_ids[2],)]


def test_run__bfloat16__is_another_request_with_nearly_the_same_result(
    bench: Bench, report: Artifact[EvaluationManifest]
) -> None:
    found = run_stage(evaluate, bench.config(precision="bfloat16"), bench.inputs, bench.store, Runtime.quiet())
    assert found.digest != report.digest
    wanted = rows_of(report)
    for name, row in rows_of(found).items():
        assert row["gflops"] == wanted[name]["gflops"]
        # The truth is a random model's own word, so one of its few segments tips over easily.
        assert row["pq"] == pytest.approx(wanted[name]["pq"], abs=0.25)


@pytest.mark.parametrize(
    "table", ["fits", "of another split", "of other images", "at another size", "in another precision"]
)
def test_run__gate_only__takes_the_controls_pq_from_a_fitting_table_or_runs_for_pq_alone(
    bench: Bench, report: Artifact[EvaluationManifest], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bench.config(every_exit=False, predictions=False)
    inputs, has_table = bench.inputs, table == "fits"
    if not has_table:
        fitted = bench.store.get(inputs["gate"], GateManifest).manifest.inputs["derived"]
        manifest = bench.store.get(fitted, DerivedManifest).manifest
        smaller = bench.dataset.model_copy(update={"test_resize": ResizeConfig(short_edge_px=32)})
        update: dict[str, object] = {
            "of another split": {"splits": ("train",), "rows": {"train": 6}},
            "of other images": {"dataset_fingerprints": {"val": "sha256:0"}},
            "at another size": {"dataset": smaller},
            "in another precision": {"precision": "bfloat16"},
        }[table]
        other = bench.store.put(manifest.model_copy(update={**update, "files": ()}), {})
        inputs = {**inputs, "gate": put_gate(bench, other.digest, EXIT_DEPTHS)}
    ran_exits = []
    original = scoring.score_exits
    monkeypatch.setattr(scoring, "score_exits", lambda *args: ran_exits.append(1) or original(*args))
    found = run_stage(evaluate, config, inputs, bench.store, Runtime.quiet())
    rows, full = rows_of(found), rows_of(report)
    assert bool(ran_exits) is not has_table
    assert ("derived" in found.manifest.inputs) is has_table
    assert [name for name, row in rows.items() if row["miou"] is not None] == ["gate"]
    for name, row in rows.items():
        kept = ("pq", "sq", "rq", "pq_things", "pq_stuff", "gflops", "encoder_gflops", "exit_shares")
        assert [row[key] for key in kept] == [full[name][key] for key in kept]
    assert {entry.name for entry in found.manifest.files} == {"images.parquet", "classes.parquet"}
    whole = read_table(report.path_of("images.parquet"))
    assert read_table(found.path_of("images.parquet")).equals(whole)


def test_read_exit_table__written_images__gives_counts_and_costs_back(report: Artifact[EvaluationManifest]) -> None:
    images = read_table(report.path_of("images.parquet"))
    counts = read_counts(images, len(EXIT_DEPTHS), 13)
    table = read_exit_table(images, EXIT_DEPTHS, counts, "pq")
    np.testing.assert_array_equal(table.quality, image_qualities(counts))
    rows = rows_of(report)
    for exit_index, depth in enumerate(EXIT_DEPTHS):
        assert table.counts.assignment_quality(table.counts.fixed_assignment(exit_index)) == rows[f"exit {depth}"]["pq"]
        assert table.gflops[:, exit_index].mean() == pytest.approx(rows[f"exit {depth}"]["gflops"])


def test_run__no_gate__evaluates_exits_and_oracle(bench: Bench) -> None:
    config = bench.config(metrics=())
    found = run_stage(evaluate, config, {"parent": bench.inputs["parent"]}, bench.store, Runtime.quiet())
    assert list(rows_of(found)) == ["exit 1", "exit 2", "exit 3", "oracle"]
    assert found.manifest.summary.gate is found.manifest.summary.gate_lead is None
    assert read_table(found.path_of("images.parquet"))["gate_depth"].null_count == IMAGES
    # Without a gate the maps are the deepest exit's. The truth of images 2 and 5 is what that exit predicts for them.
    dataset, same = open_dataset(bench.dataset, "val"), []
    with zipfile.ZipFile(found.path_of("predictions.zip")) as archive:
        assert len(archive.namelist()) == IMAGES + 1
        for record in dataset.records:
            (name,) = [name for name in archive.namelist() if name.endswith(f"{record.image_id}.png")]
            with archive.open(name) as file, Image.open(file) as picture:
                same.append((decode_id_map(picture) == dataset.load_panoptic(record)).mean())
    assert min(same[2], same[5]) > 0.99 > max(same[0], same[3])


def put_gate(bench: Bench, derived: str, exit_depths: tuple[int, ...]) -> str:
    """Put the gate once more, as fitted on another table."""
    gate = bench.store.get(bench.inputs["gate"], GateManifest)
    update = {"inputs": {"derived": derived}, "exit_depths": exit_depths, "files": ()}
    files = {"gate.safetensors": gate.path_of("gate.safetensors").read_bytes()}
    return bench.store.put(gate.manifest.model_copy(update=update), files).digest


def variant_gate(bench: Bench, parent: str, exit_depths: tuple[int, ...]) -> str:
    """Put a gate that was fitted on a table of another parent, or for other exits."""
    derived = derived_manifest(parent, exit_depths, {"res5": 128})
    return put_gate(bench, bench.store.put(derived, {}).digest, exit_depths)


def test_run__gate_of_another_parent__is_refused(bench: Bench) -> None:
    parent = bench.store.get(bench.inputs["parent"], ParentManifest)
    other = bench.store.put(
        parent.manifest.model_copy(update={"steps": 9, "files": ()}),
        {"model.safetensors": parent.path_of("model.safetensors").read_bytes()},
    )
    gate = variant_gate(bench, other.digest, EXIT_DEPTHS)
    with pytest.raises(ArtifactError, match=f"was fitted for the parent {other.digest}, not for {parent.digest}"):
        run_stage(evaluate, bench.config(), {**bench.inputs, "gate": gate}, bench.store, Runtime.quiet())


def test_run__gate_with_other_exits__is_refused(bench: Bench) -> None:
    gate = variant_gate(bench, bench.inputs["parent"], (2, 3, 4))
    with pytest.raises(ArtifactError, match=r"chooses exits at depths \[4\], the parent has \[1, 2, 3\]"):
        run_stage(evaluate, bench.config(), {**bench.inputs, "gate": gate}, bench.store, Runtime.quiet())


def test_run__damaged_gate__is_refused(bench: Bench) -> None:
    gate = variant_gate(bench, bench.inputs["parent"], (1, 3))
    with pytest.raises(ArtifactError, match=r"holds linear.weight \[3, 128\] over feature 'res5', expected one row"):
        run_stage(evaluate, bench.config(), {**bench.inputs, "gate": gate}, bench.store, Runtime.quiet())


def test_run__parent_of_other_categories__is_refused(bench: Bench) -> None:
    parent = bench.store.get(bench.inputs["parent"], ParentManifest)
    other = bench.store.put(
        parent.manifest.model_copy(update={"categories": parent.manifest.categories[:-1], "files": ()}),
        {},
    )
    with pytest.raises(DataError, match="knows 12 categories, the data set own-truth has 13, and they are not"):
        run_stage(evaluate, bench.config(), {"parent": other.digest}, bench.store, Runtime.quiet())


def test_run__weights_of_another_architecture__are_refused(bench: Bench) -> None:
    parent = bench.store.get(bench.inputs["parent"], ParentManifest)
    other = bench.store.put(
        parent.manifest.model_copy(update={"steps": 11, "files": ()}),
        {"model.safetensors": bench.store.get(bench.inputs["gate"], GateManifest).path_of("gate.safetensors")},
    )
    with pytest.raises(ArtifactError, match=f"weights of the parent {other.digest} do not fit its architecture tiny"):
        run_stage(evaluate, bench.config(), {"parent": other.digest}, bench.store, Runtime.quiet())


def test_evaluate_config__folder_of_the_data__is_no_part_of_the_request(bench: Bench) -> None:
    # The same data elsewhere give the same digests.
    config = bench.config(dataset=bench.dataset.model_copy(update={"root": "elsewhere"}))
    assert config.dataset.root == "elsewhere"
    assert config.model_dump(mode="json") == bench.config().model_dump(mode="json")


def test_run__parent_with_weights_of_another_type__is_an_artifact_error(bench: Bench) -> None:
    parent = bench.store.get(bench.inputs["parent"], ParentManifest)
    state = {name: tensor.double() for name, tensor in parent.read(WEIGHTS_FILE, load_tensors).items()}
    forged = bench.store.put(parent.manifest, {WEIGHTS_FILE: save_tensors(state)}).digest
    with pytest.raises(ArtifactError, match=r"do not fit its architecture tiny: .* is of type torch.float64, expected"):
        run_stage(evaluate, bench.config(metrics=()), {"parent": forged}, bench.store)


def test_run__gate_of_another_width__is_an_artifact_error(bench: Bench) -> None:
    gate = bench.store.get(bench.inputs["gate"], GateManifest)
    state = {"linear.weight": torch.zeros(3, 7), "linear.bias": torch.zeros(3)}
    forged = bench.store.put(gate.manifest, {GATE_FILE: save_tensors(state)}).digest
    with pytest.raises(ArtifactError, match="The gate reads 7 values of the feature 'res5', the parent gives 128"):
        run_stage(evaluate, bench.config(metrics=()), {**bench.inputs, "gate": forged}, bench.store)
