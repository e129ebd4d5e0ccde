"""Step A through its stage, on a few generated images and the tiny model."""

import json
from pathlib import Path

import helpers_inference
import pytest
import torch
from helpers_inference import tiny_dataset_config
from helpers_own_truth import make_own_truth
from helpers_stages import run_stage
from helpers_train_parent import parent_of, settings
from helpers_training import tiny_config

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors, save_tensors
from ecocli.config.evaluate import EvaluateConfig, EvaluateExecutionConfig
from ecocli.data.datasets import open_dataset
from ecocli.runtime.context import Runtime
from ecocli.stages import evaluate


def test_run__shapes__artifact_says_what_it_is(trained: tuple[Store, Artifact[ParentManifest]]) -> None:
    store, parent = trained
    manifest = parent.manifest
    assert manifest.exit_depths == (1, 2, 3)
    assert manifest.steps == 2
    # The number of classes is the data's, whatever the settings said.
    assert manifest.architecture.num_classes == len(manifest.categories)
    assert [category.id for category in manifest.categories] == sorted({c.id for c in manifest.categories})
    assert list(manifest.dataset_fingerprints) == ["train"]
    assert [entry.name for entry in manifest.files] == ["loss.png", "metrics.jsonl", "model.safetensors"]
    weights = load_tensors(parent.path_of("model.safetensors"))
    head = weights["sem_seg_head.predictor.class_embed.weight"]
    assert head.shape == (len(manifest.categories) + 1, 32)
    lines = [json.loads(line) for line in parent.path_of("metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert store.names()["parent"] == parent.digest
    assert not any((store.root / "eco" / "runs").iterdir())


def test_run__evaluated_in_between__metrics_and_identity_change_and_weights_do_not(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path, tmp_path: Path
) -> None:
    config = settings(data_root, evaluation={"every": 1, "images": 3, "batch_size": 2})
    store = Store(tmp_path)
    parent, plain = parent_of(config, store), trained[1]
    assert parent.digest != plain.digest
    # The folder of the data is no part of it.
    assert parent.manifest.dataset == config.dataset.model_copy(update={"root": None})
    assert parent.manifest.test_resize == config.dataset.test_resize
    one, other = parent.path_of("model.safetensors"), plain.path_of("model.safetensors")
    assert one.read_bytes() == other.read_bytes()
    # Two steps and two evaluations; without the latter the metrics are the same.
    lines = parent.path_of("metrics.jsonl").read_text().splitlines()
    expected = plain.path_of("metrics.jsonl").read_text().splitlines()
    assert [line for line in lines if "evaluation" not in line] == expected
    told = [json.loads(line)["evaluation"] for line in lines if "evaluation" in line]
    assert [(one["images"], one["split"], list(one["exits"])) for one in told] == 2 * [(3, "val", ["1", "2", "3"])]
    fingerprints = parent.manifest.dataset_fingerprints
    assert fingerprints == {split: open_dataset(config.dataset, split).fingerprint for split in ("train", "val")}
    assert store.read_provenance(parent.digest).known()["evaluation_seconds"] > 0


def test_run__evaluated_at_the_end__what_eco_eval_finds(tmp_path: Path) -> None:
    # The truth is what the first weights say, so that every exit scores something also after a step away from them.
    data = make_own_truth(tiny_dataset_config(tmp_path, val=5), tmp_path / "own")
    path = tmp_path / "first.safetensors"
    path.write_bytes(save_tensors(helpers_inference.tiny_model().state_dict()))
    config = tiny_config(
        dataset=data.model_dump(),
        architecture=helpers_inference.TINY.model_dump(mode="json"),
        steps=1,
        init_file=str(path),
        optimizer={"lr": 1e-4},
        evaluation={"every": 1, "images": 5, "batch_size": 2},
    )
    store = Store(tmp_path / "store")
    parent = parent_of(config, store)
    lines = [json.loads(line) for line in parent.path_of("metrics.jsonl").read_text().splitlines()]
    asked = EvaluateConfig(
        dataset=data,
        batch_size=2,
        metrics=(),
        predictions=False,
        bootstrap_replicates=10,
        execution=EvaluateExecutionConfig(timed_images=0),
    )
    report = run_stage(evaluate, asked, {"parent": parent.digest}, store, Runtime.quiet())
    rows = {row.name: row.model_dump() for row in report.manifest.summary.rows}
    told = lines[-1]["evaluation"]["exits"]
    for depth in ("1", "2", "3"):
        assert told[depth] == {name: rows[f"exit {depth}"][name] for name in told["1"]}
    assert len({exit_["pq"] for exit_ in told.values()} - {0.0}) == 3
    assert set(told["1"]) == {"pq", "sq", "rq", "pq_things"}  # there is no stuff in what the first weights say


def test_run__single_exit__loss_of_weight_one(data_root: Path, tmp_path: Path) -> None:
    def first_loss(alpha: object) -> tuple[float, float]:
        config = settings(data_root, exit_depths=[3], alpha=alpha, steps=1)
        parent = parent_of(config, Store(tmp_path / str(alpha)))
        line = json.loads(parent.path_of("metrics.jsonl").read_text().splitlines()[0])
        return line["loss"], line["exits"]["3"]["loss"]

    loss, exit_loss = first_loss("depth")
    assert loss == pytest.approx(exit_loss, rel=1e-5)
    assert first_loss([3.0])[0] == pytest.approx(3 * loss, rel=1e-5)


def test_run__same_settings_executed_otherwise__reused(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path
) -> None:
    store, parent = trained
    config = settings(data_root, execution={"accumulation": 2, "checkpoint_every": 1})
    assert parent_of(config, store).digest == parent.digest


def test_run__same_settings_elsewhere__same_digest(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path, tmp_path: Path
) -> None:
    assert parent_of(settings(data_root), Store(tmp_path)).digest == trained[1].digest


def test_run__other_seed__other_parent(
    trained: tuple[Store, Artifact[ParentManifest]], data_root: Path, tmp_path: Path
) -> None:
    other = parent_of(settings(data_root, seed=1, steps=0), Store(tmp_path))
    first = load_tensors(trained[1].path_of("model.safetensors"))
    second = load_tensors(other.path_of("model.safetensors"))
    name = "sem_seg_head.predictor.query_feat.weight"
    assert not torch.allclose(first[name], second[name], atol=0.1)
