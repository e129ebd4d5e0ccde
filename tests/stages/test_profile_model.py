"""The profile as a whole: published figures, parents with gates, sizes, times and refusals."""

from pathlib import Path

import pytest
from helpers_evaluation import Bench
from helpers_inference import EXIT_DEPTHS
from helpers_stages import run_stage
from helpers_store import gate_metrics

from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.config.architecture import ARCHITECTURES
from ecocli.config.dataset import DatasetConfig
from ecocli.config.profile_model import ProfileExecutionConfig, ProfileModelConfig
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.stages import profile_model

EXITS = (2, 3, 4, 5, 6)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def summary_of(config: ProfileModelConfig, store: Store, inputs: dict[str, str] | None = None) -> dict:
    return run_stage(profile_model, config, inputs or {}, store, Runtime.quiet()).manifest.summary.model_dump(
        mode="json"
    )


def test_run__swin_tiny_on_cityscapes__lands_on_the_published_table(store: Store) -> None:
    # ECO-M2F, arXiv 2404.15244, table 1: Mask2Former 537.85 in all and 281.13 in the pixel decoder; its gate with
    # beta 0.1 costs 411.98 and 155.26, which is exit 2 on every image.
    architecture = ARCHITECTURES["m2f-swin-t"].model_copy(update={"num_classes": 19})
    cityscapes = DatasetConfig(name="cityscapes")
    config = ProfileModelConfig(architecture=architecture, exit_depths=EXITS, dataset=cityscapes)
    (entry,) = summary_of(config, store)["inputs"]
    by_depth = {row["exit_depth"]: row for row in entry["exits"]}
    assert by_depth[6]["total"] == pytest.approx(537.85, abs=0.005)
    assert by_depth[6]["pixel_decoder"] == pytest.approx(281.13, abs=0.005)
    assert by_depth[2]["total"] == pytest.approx(411.98, abs=0.005)
    assert by_depth[2]["pixel_decoder"] == pytest.approx(155.26, abs=0.005)
    assert (entry["images"], entry["padded_sizes"]) == (500, [[1024, 2048]])


def test_run__parent_and_gate__expected_cost_is_the_mixture_of_its_exits(bench: Bench) -> None:
    gate = bench.store.get(bench.inputs["gate"], GateManifest).manifest
    metrics = gate_metrics((0.5, 0.25, 0.25))
    told = bench.store.put(gate.model_copy(update={"metrics": metrics}), {"gate.safetensors": b"unused"})
    inputs = {**bench.inputs, "gate": told.digest}
    summary = summary_of(ProfileModelConfig(dataset=bench.dataset), bench.store, inputs)
    (entry,) = summary["inputs"]
    totals = [row["total"] for row in entry["exits"]]
    assert [row["exit_depth"] for row in entry["exits"]] == list(EXIT_DEPTHS)
    assert totals == sorted(totals)
    expected = 0.5 * totals[0] + 0.25 * totals[1] + 0.25 * totals[2]
    # 128 features times 3 exits: the gate itself.
    assert entry["gate"]["total"] == pytest.approx(expected + 128 * 3 / 1e9, abs=1e-12)
    assert entry["gate"]["mean_depth"] == pytest.approx(1.75)
    assert summary["parameters"]["total"] > summary["parameters"]["backbone"] > 0


def test_run__gate_of_another_parent__error(bench: Bench) -> None:
    gate = bench.store.get(bench.inputs["gate"], GateManifest).manifest
    stray = bench.store.put(gate.model_copy(update={"inputs": {}}), {"gate.safetensors": b"unused"})
    with pytest.raises(ArtifactError, match="does not say which parent it was fitted for"):
        summary_of(ProfileModelConfig(sizes=((64, 64),)), bench.store, {**bench.inputs, "gate": stray.digest})


def test_plan__imported_gate__refused_before_anything_is_counted(bench: Bench) -> None:
    gate = bench.store.get(bench.inputs["gate"], GateManifest).manifest
    imported = bench.store.put(gate.model_copy(update={"metrics": None}), {"gate.safetensors": b"unused"})
    inputs = {**bench.inputs, "gate": imported.digest}
    with pytest.raises(UsageError, match="was imported: which exits it chooses on which images is not known"):
        profile_model.plan(ProfileModelConfig(sizes=((64, 64),)), inputs, bench.store, Runtime.quiet())


def test_run__neither_parent_nor_architecture__error(store: Store) -> None:
    with pytest.raises(UsageError, match=r"A profile is of a parent \(--parent\) or of an architecture"):
        run_stage(profile_model, ProfileModelConfig(sizes=((64, 64),)), {}, store, Runtime.quiet())


def test_run__exit_the_parent_lacks__error(bench: Bench) -> None:
    config = ProfileModelConfig(sizes=((64, 64),), exit_depths=(2, 5))
    with pytest.raises(UsageError, match=r"has no exits at depths \[5\], only \[1, 2, 3\]"):
        run_stage(profile_model, config, {"parent": bench.inputs["parent"]}, bench.store, Runtime.quiet())


def test_run__odd_sizes__are_padded_and_cost_what_their_padded_size_costs(store: Store) -> None:
    shapes = ARCHITECTURES["m2f-shapes"]
    config = ProfileModelConfig(architecture=shapes, exit_depths=EXITS, sizes=((1, 1), (32, 32), (33, 1)))
    first, second, third = summary_of(config, store)["inputs"]
    assert (first["padded_sizes"], third["padded_sizes"]) == ([[32, 32]], [[64, 32]])
    for part in ("backbone", "pixel_decoder", "transformer_decoder"):
        assert first["exits"][0][part] == second["exits"][0][part] < third["exits"][0][part]
    # Post-processing ends at the original size.
    assert first["exits"][0]["post_processing"] < second["exits"][0]["post_processing"]


def test_run__latency__measured_anew_into_the_provenance(bench: Bench) -> None:
    execution = ProfileExecutionConfig(latency=True, repetitions=2, warm_up=0)
    config = ProfileModelConfig(sizes=((64, 96), (64, 64)), execution=execution)
    inputs = {"parent": bench.inputs["parent"]}
    report = run_stage(profile_model, config, inputs, bench.store, Runtime.quiet())
    first = bench.store.read_provenance(report.digest)
    assert set(first.ms_per_image) == {"exit 1", "exit 2", "exit 3"}
    assert [entry.padded_size for entry in first.latency] == [(64, 96), (64, 64)]
    assert first.latency[0].exits[0].parts["encoder"].median_ms > 0
    again = run_stage(profile_model, config, inputs, bench.store, Runtime.quiet())
    assert again.digest == report.digest
    assert bench.store.read_provenance(again.digest).ms_per_image != first.ms_per_image
    assert resolve(bench.store, "profile", "profile") == report.digest


def test_run__same_profile_again__is_reused(bench: Bench) -> None:
    config, inputs = ProfileModelConfig(sizes=((96, 64),)), {"parent": bench.inputs["parent"]}
    first = run_stage(profile_model, config, inputs, bench.store, Runtime.quiet())
    before = bench.store.read_provenance(first.digest)
    assert run_stage(profile_model, config, inputs, bench.store, Runtime.quiet()).digest == first.digest
    assert bench.store.read_provenance(first.digest) == before


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "give either a data set"),
        ({"sizes": ((8, 8),), "dataset": DatasetConfig(name="coco")}, "give either a data set"),
        (
            {"sizes": ((8, 8),), "architecture": ARCHITECTURES["m2f-r50"], "exit_depths": (7,)},
            r"exit depths \[7\] asked of an encoder with 6 layers",
        ),
        ({"sizes": ((8, 8),), "exit_depths": (3, 2)}, "exit_depths must ascend"),
    ],
)
def test_profile_model_config__impossible__error(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProfileModelConfig(**settings)
