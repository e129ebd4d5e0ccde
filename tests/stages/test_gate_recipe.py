"""Derive, fit-gate and eval in a row: the table's arithmetic against a real gated run of the network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_distributed import run_processes
from helpers_evaluation import Bench
from helpers_stages import run_stage

from ecocli.artifacts.derived_table import read_split
from ecocli.artifacts.manifest import DerivedManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tables import read_table
from ecocli.artifacts.transfer import pull, push
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import DeriveConfig
from ecocli.config.evaluate import EvaluateConfig, EvaluateExecutionConfig
from ecocli.config.fit_gate import FitGateConfig
from ecocli.config.predict import PredictConfig
from ecocli.config.profile_model import ProfileModelConfig
from ecocli.config.report import ReportConfig
from ecocli.config.sweep import SweepConfig
from ecocli.data.datasets import open_dataset
from ecocli.gates.placed import exit_table, placed_choice
from ecocli.metrics.assignment import oracle_assignment
from ecocli.reports import plots
from ecocli.reports.plots import Tradeoff
from ecocli.runtime.context import Runtime
from ecocli.stages import derive, evaluate, fit_gate, predict, profile_model, report, sweep

QUIET = EvaluateExecutionConfig(timed_images=0)


@pytest.fixture(scope="module")
def dataset(bench: Bench) -> DatasetConfig:
    return bench.dataset


@pytest.fixture(scope="module")
def derived(bench: Bench, dataset: DatasetConfig) -> str:
    config = DeriveConfig(dataset=dataset, batch_size=2, mirror=True)
    return run_stage(derive, config, {"parent": bench.inputs["parent"]}, bench.store, Runtime.quiet()).digest


@pytest.mark.parametrize(
    "settings",
    [
        {"recipe": "paper", "l2": 1e-4},
        {"recipe": "paper", "head": "quality", "cost": "gflops"},
        {"recipe": "contents", "select": "loss"},
        {"recipe": "contents", "head": "class", "l2": 1e-4, "select": "loss"},
    ],
)
def test_fit_gate__on_a_derived_table__equals_the_gated_run_of_eval(
    bench: Bench, dataset: DatasetConfig, derived: str, settings: dict[str, Any]
) -> None:
    # Both on the rows of the validation split, so that the gate has something to tell apart.
    config = FitGateConfig(beta=0.0, train_split="val", score_split="train", bootstrap_replicates=20, **settings)
    gate = run_stage(fit_gate, config, {"derived": derived}, bench.store, Runtime.quiet())
    inputs = {"parent": bench.inputs["parent"], "gate": gate.digest}
    for split in ("train", "val"):
        evaluation = EvaluateConfig(
            dataset=dataset,
            split=split,
            batch_size=2,
            metrics=(),
            predictions=False,
            execution=QUIET,
            bootstrap_replicates=20,
        )
        evaluated = run_stage(evaluate, evaluation, inputs, bench.store, Runtime.quiet())
        summary: Any = evaluated.manifest.summary.model_dump(mode="json")
        # Image by image, in batches of several sizes and exits: the decision on the stored row is that on the image.
        images = read_split(bench.store.get(derived, DerivedManifest), split, gate.manifest.feature)
        table = exit_table(bench.store.get(derived, DerivedManifest), images)
        placed = np.array(table.exit_depths)[placed_choice(gate, table, images, gate.manifest.beta)]
        assert (
            read_table(evaluated.path_of("images.parquet"), ["gate_depth"])["gate_depth"].to_pylist() == placed.tolist()
        )
        rows = {row["name"]: row for row in summary["rows"]}
        if split == "val":
            # Nothing here is trivial: the exits differ, and the gate takes more than one of them.
            assert len({row["pq"] for name, row in rows.items() if name.startswith("exit")}) == 3
            assert max(rows["gate"]["exit_shares"]) < 1.0
            continue
        metrics: Any = gate.manifest.metrics.model_dump(mode="json")
        assert rows["gate"]["pq"] > 0.0
        assert metrics["gate"]["pq"] == pytest.approx(rows["gate"]["pq"], abs=1e-9)
        assert metrics["gate"]["gflops"] == pytest.approx(rows["gate"]["gflops"], rel=1e-9)
        assert metrics["gate"]["exit_shares"] == rows["gate"]["exit_shares"]
        for entry in metrics["fixed"]:
            row = rows[f"exit {entry['exit_depth']}"]
            assert (entry["pq"], entry["gflops"]) == pytest.approx((row["pq"], row["gflops"]), abs=1e-9)
        for ours, theirs in (("oracle", "oracle"), ("random", "random"), ("attainable", "attainable")):
            assert metrics[ours]["pq"] == pytest.approx(rows[theirs]["pq"], abs=1e-9)
        assert metrics["attainable"]["gflops"] <= metrics["gate"]["gflops"]
        assert metrics["fit"]["fitted_on"].endswith(", and their mirror images") == (settings["recipe"] == "contents")
        assert summary["gate_lead"]["reached"] == pytest.approx(metrics["reached"], abs=1e-6)


def test_gate_through_contents__profile_predict_and_another_store__choose_alike(
    bench: Bench, dataset: DatasetConfig, derived: str, tmp_path: Path
) -> None:
    config = FitGateConfig(beta=0.0, train_split="val", score_split="train", bootstrap_replicates=10, select="loss")
    gate = run_stage(fit_gate, config, {"derived": derived}, bench.store)
    assert gate.manifest.feature == "tokens"
    elsewhere = Store(tmp_path / "elsewhere")
    push(bench.store, gate.digest, tmp_path / "layout", with_inputs=True)
    assert pull(elsewhere, tmp_path / "layout", gate.digest, with_inputs=True) == gate.digest
    inputs = {"parent": bench.inputs["parent"], "gate": gate.digest}
    profiled = run_stage(profile_model, ProfileModelConfig(dataset=dataset), inputs, elsewhere)
    (entry,) = profiled.manifest.summary.inputs
    # Three levels of 32 channels, mean and maximum, to three exits.
    assert entry.gate_gflops == pytest.approx(192 * 3 / 1e9)
    assert entry.gate is not None
    assert entry.gate.exit_shares == gate.manifest.metrics.gate.exit_shares
    images = read_split(bench.store.get(derived, DerivedManifest), "val", "tokens")
    table = exit_table(bench.store.get(derived, DerivedManifest), images)
    placed = np.array(table.exit_depths)[placed_choice(gate, table, images, 0.0)].tolist()
    opened = open_dataset(dataset, "val")
    paths = [str(opened.image_path(record)) for record in opened.records]
    asked = PredictConfig(images=tuple(paths), out=str(tmp_path / "out"), test_resize=dataset.test_resize)
    found = predict.run(asked, inputs, elsewhere, Runtime.quiet())
    found.check()
    depths = {photo.source.name: photo.exit_depth for photo in found.photos}
    assert [depths[Path(path).name] for path in paths] == placed
    assert len(set(placed)) > 1


def test_report_and_sweep__mirror_images_derived__draw_what_is_attainable(
    bench: Bench, dataset: DatasetConfig, derived: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FitGateConfig(beta=0.001, train_split="val", score_split="train", bootstrap_replicates=10, select="loss")
    gate = run_stage(fit_gate, config, {"derived": derived}, bench.store)
    asked = EvaluateConfig(dataset=dataset, metrics=(), predictions=False, execution=QUIET, bootstrap_replicates=10)
    inputs = {"parent": bench.inputs["parent"], "gate": gate.digest}
    evaluation = run_stage(evaluate, asked, inputs, bench.store)
    assert evaluation.manifest.inputs["mirror"] == derived
    drawn: list[Tradeoff] = []
    monkeypatch.setattr(plots, "draw_tradeoff", lambda tradeoff, narrow=False: drawn.append(tradeoff) or b"")
    report.run(
        ReportConfig(out=str(tmp_path), examples=0), {"evaluation": evaluation.digest}, bench.store, Runtime.quiet()
    )
    table = read_split(bench.store.get(derived, DerivedManifest), "val", "res5")
    assert table.mirror is not None
    free = oracle_assignment(table.mirror.counts.contributions())
    assert drawn[0].attainable[-1].pq == table.counts.assignment_quality(free)
    swept = run_stage(sweep, SweepConfig(betas=(0.001,), bootstrap_replicates=10), {"derived": derived}, bench.store)
    assert all(row.attainable_pq is not None for row in swept.manifest.summary.rows)
    assert b"attainable" in swept.path_of("sweep.svg").read_bytes()


SCRIPT = """
import sys
from pathlib import Path
from ecocli.artifacts.store import Store
from ecocli.config.derive import DeriveConfig, DeriveExecutionConfig
from ecocli.config.dataset import DatasetConfig
from ecocli.runtime.context import Runtime
from ecocli.runtime.distributed import exit_process, leave_world, setup_world
from ecocli.artifacts.action import execute
from ecocli.stages.derive import plan
from dataclasses import replace
world = setup_world("cpu")
runtime = replace(Runtime.quiet(), world=world)
dataset = DatasetConfig.model_validate_json(sys.argv[3])
config = DeriveConfig(dataset=dataset, batch_size=2, mirror=True, execution=DeriveExecutionConfig(part_images=2))
store = Store(Path(sys.argv[1]))
artifact = execute(plan(config, {"parent": sys.argv[2]}, store, runtime), store, runtime, force=True)
print(artifact.digest)
leave_world(world)
exit_process(0)
"""


def test_derive__two_processes__same_digest_as_one(bench: Bench, dataset: DatasetConfig, derived: str) -> None:
    arguments = ["-c", SCRIPT, str(bench.store.root), bench.inputs["parent"], dataset.model_dump_json()]
    results = run_processes(arguments, timeout_s=300.0)
    assert [(result.code, result.out.strip()) for result in results] == [(0, derived)] * 2, results[0].err
