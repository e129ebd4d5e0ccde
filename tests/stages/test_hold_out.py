"""Images kept out of Step A, through every stage: the loader never yields them, and the tables and gates know them."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers_stages import run_stage
from helpers_training import tiny_config

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import unseen_share
from ecocli.artifacts.manifest import ParentManifest, TrainedOn
from ecocli.artifacts.store import Store
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import DeriveConfig
from ecocli.config.fit_gate import FitGateConfig
from ecocli.config.loading import resolve_config
from ecocli.config.recipes import train_parent_preset
from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.hold_out import is_held_out
from ecocli.runtime.context import Runtime
from ecocli.stages import derive, fit_gate, train_parent
from ecocli.tasks.registry import task_of
from ecocli.training.batches import BatchDivision, load_parts

SHAPES = {"train": 12, "val": 4, "scenes": {"size": 64}}
SHARE = 0.4


def settings(data_root: Path, **changes: Any) -> TrainParentConfig:
    dataset = {"root": str(data_root), "shapes": SHAPES}
    return tiny_config(**{"dataset": dataset, "batch_size": 2, "steps": 0, "hold_out": SHARE, **changes})


@pytest.fixture(scope="module")
def held(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact[ParentManifest]]:
    """A parent that keeps images out, and its store."""
    store = Store(tmp_path_factory.mktemp("store"))
    return store, run_stage(train_parent, settings(data_root), {}, store)


def tables_of(store: Store, parent: str, dataset: DatasetConfig, **changes: Any) -> tuple[str, dict[str, Any]]:
    """Derive, and return the digest and ``seen`` by split and image."""
    config = DeriveConfig(dataset=dataset, **changes)
    artifact = run_stage(derive, config, {"parent": parent}, store)
    seen = {}
    for split in config.splits:
        table = pq.read_table(artifact.path_of(f"{split}.parquet"))
        seen[split] = dict(zip(table["image_id"].to_pylist(), table["seen"].to_pylist(), strict=True))
    return artifact.digest, seen


@pytest.mark.parametrize("name", ["m2f-shapes", "detr-shapes"])
def test_plan__every_task__loader_yields_exactly_the_others(data_root: Path, name: str) -> None:
    raw: dict[str, Any] = {
        "dataset": {"root": str(data_root), "shapes": SHAPES},
        "architecture": {"name": name},
        "hold_out": SHARE,
        "epochs": 2,
        "batch_size": 1,
    }
    config = resolve_config(TrainParentConfig, train_parent_preset(raw), raw)
    planned = train_parent.plan(config, {}, Store("nowhere"), Runtime.quiet())
    task = task_of(config.architecture)
    whole = task.open(config.dataset, "train")
    samples = task.samples(planned.data.training, planned.config.architecture.num_classes, config.dataset, 0)
    parts = load_parts(samples, 0, BatchDivision(1), first_step=0, steps=planned.config.steps, workers=0)
    yielded = {sample.image_id for part in parts for sample in part.samples}
    assert yielded == {one for one in whole.records.image_ids if not is_held_out(one, SHARE)}
    assert 0 < len(yielded) < 12
    # Epochs are passes over the images trained on.
    assert planned.config.steps == 2 * len(yielded)


def test_run__held_out_share__stands_in_the_manifest_and_in_every_row(
    held: tuple[Store, Artifact[ParentManifest]], data_root: Path
) -> None:
    store, parent = held
    dataset = settings(data_root).dataset
    (entry,) = parent.manifest.trained_on
    assert (entry.dataset, entry.split, entry.hold_out, entry.rule) == (
        "shapes, seed 0",
        "train",
        SHARE,
        "sha256-of-id",
    )
    assert entry.fingerprint == parent.manifest.dataset_fingerprints["train"]
    _, seen = tables_of(store, parent.digest, dataset)
    assert seen["train"] == {str(one): not is_held_out(str(one), SHARE) for one in seen["train"]}
    assert set(seen["train"].values()) == {True, False}
    assert set(seen["val"].values()) == {False}


def test_run__started_from_a_parent__has_seen_what_that_one_saw(
    held: tuple[Store, Artifact[ParentManifest]], data_root: Path
) -> None:
    store, parent = held
    for share, expected in ((0.1, 0.1), (0.6, SHARE)):
        started = run_stage(train_parent, settings(data_root, hold_out=share), {"init": parent.digest}, store)
        assert [one.hold_out for one in started.manifest.trained_on] == [SHARE, share]
        split = parent.manifest.dataset_fingerprints["train"]
        assert unseen_share(started.manifest, "shapes, seed 0", "train", split) == expected


def test_unseen_share__same_images_by_name_or_by_fingerprint__are_known(
    held: tuple[Store, Artifact[ParentManifest]],
) -> None:
    manifest = held[1].manifest
    fingerprint = manifest.dataset_fingerprints["train"]
    assert unseen_share(manifest, "elsewhere.toml", "training", fingerprint) == SHARE  # moved
    assert unseen_share(manifest, "shapes, seed 0", "train", "sha256:0") == SHARE  # annotations were mended
    assert unseen_share(manifest, "shapes, seed 5", "train", "sha256:0") == 1.0
    assert unseen_share(manifest, "shapes, seed 0", "val", "sha256:0") == 1.0
    old = manifest.model_copy(update={"trained_on": ()})
    assert unseen_share(old, "shapes, seed 0", "train", fingerprint) is None
    other = TrainedOn(dataset="coco", split="train", fingerprint="sha256:1", hold_out=0.2)
    assert unseen_share(old.model_copy(update={"trained_on": (other,)}), "coco", "train", "sha256:2") == 0.2


def test_fit_gate__images_kept_out__are_those_fitted_on(
    held: tuple[Store, Artifact[ParentManifest]], data_root: Path
) -> None:
    store, parent = held
    derived, seen = tables_of(store, parent.digest, settings(data_root).dataset)
    unseen = sum(not value for value in seen["train"].values())

    def fitted_on(**changes: Any) -> tuple[int, str, str]:
        config = FitGateConfig(beta=0.001, l2=0.1, select="loss", bootstrap_replicates=10, **changes)
        metrics = run_stage(fit_gate, config, {"derived": derived}, store).manifest.metrics
        fit = metrics.fit
        return fit.training_images + fit.left_out_images, fit.fitted_on, metrics.scored_on

    assert fitted_on() == (unseen, f"train, {unseen} images, none seen by the parent in its training", "val")
    words = f"train, 12 images, {12 - unseen} of them seen by the parent in its training"
    assert fitted_on(recipe="paper") == (12, words, "val")
    assert fitted_on(fit_on="all") == (12, words, "val")
    # With one split alone, a fifth of the images that are kept out is scored on, whatever is fitted on.
    apart = max(round(0.2 * unseen), 1)
    for changes, rows in (({}, unseen - apart), ({"fit_on": "all"}, 12 - apart)):
        assert fitted_on(score_split="none", **changes)[0] == rows


def test_fit_gate__parent_that_saw_all_or_does_not_say__is_named_as_such(
    held: tuple[Store, Artifact[ParentManifest]], data_root: Path
) -> None:
    store, _ = held
    config = settings(data_root, hold_out=0.0)
    parent = run_stage(train_parent, config, {}, store)
    asked = FitGateConfig(beta=0.001, l2=0.1, select="loss", bootstrap_replicates=10)
    derived, _ = tables_of(store, parent.digest, config.dataset)
    fit = run_stage(fit_gate, asked, {"derived": derived}, store).manifest.metrics.fit
    assert fit.fitted_on == "train, 12 images, all seen by the parent in its training"
    silent = parent.manifest.model_copy(update={"trained_on": (), "files": ()})
    imported = store.put(silent, {"model.safetensors": parent.path_of("model.safetensors").read_bytes()})
    derived, seen = tables_of(store, imported.digest, config.dataset)
    assert set(seen["train"].values()) == {None}
    fit = run_stage(fit_gate, asked, {"derived": derived}, store).manifest.metrics.fit
    assert fit.fitted_on == "train, 12 images; the parent does not say whether it has seen them"
