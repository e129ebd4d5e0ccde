"""Parents beside each other: rows against what eval measured of the same choices, refusals, files."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers_evaluation import Bench, imported_gate
from helpers_gate import derived_records, put_derived
from helpers_stages import run_stage
from PIL import Image

from ecocli.__main__ import main
from ecocli.artifacts.digest import canonical_json
from ecocli.artifacts.listing import list_artifacts
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.oci import build_manifest
from ecocli.artifacts.provenance import Provenance
from ecocli.config.compare import CompareConfig
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.stages import compare, evaluate
from ecocli.stages.compare import Comparison, Contestant


def compared(bench: Bench, *, out: Path | None = None, split: str = "val") -> Comparison:
    contestant = Contestant("one", bench.inputs["parent"], (bench.inputs["gate"],))
    return compare.run(CompareConfig(split=split, out=None if out is None else str(out)), [contestant], bench.store)


def test_run__parent_and_gate__equals_what_eval_measured(bench: Bench) -> None:
    before = compared(bench)
    assert {row.miou for row in before.rows} == {None}
    config = bench.config(metrics=("miou",), every_exit=True)
    evaluation = run_stage(evaluate, config, bench.inputs, bench.store, Runtime.quiet())
    bench.store.write_provenance(
        evaluation.digest, Provenance(ms_per_image={"exit 1": 10.0, "exit 2": 20.0, "exit 3": 40.0, "gate": 99.0})
    )
    measured = evaluation.manifest.summary.by_name
    found = compared(bench)
    assert [row.choice for row in found.rows] == ["exit 1", "exit 2", "exit 3", "gate, beta 0.001"]
    assert found.images == 6
    for row in found.rows:
        truth = measured[row.choice.split(",")[0]]
        assert row.pq == pytest.approx(truth.pq, abs=1e-12)
        assert row.gflops == pytest.approx(truth.gflops, rel=1e-12)
        assert row.encoder_gflops == pytest.approx(truth.encoder_gflops, rel=1e-12)
        assert row.mean_depth == pytest.approx(truth.mean_depth)
        assert row.miou == truth.miou
    times = {1: 10.0, 2: 20.0, 3: 40.0}
    assert [row.ms for row in found.rows[:3]] == list(times.values())
    assert found.rows[3].ms == pytest.approx(sum(times[depth] for depth in bench.gate_depths) / 6)


def test_run__evaluations_by_other_rules__are_passed_over(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = {"parent": bench.inputs["parent"]}
    measured = {}
    for rules in ("coco", "cityscapes"):
        config = bench.config(metrics=("ap",), rules=rules)
        rows = run_stage(evaluate, config, inputs, bench.store, Runtime.quiet()).manifest.summary.by_name
        measured[rules] = [rows[f"exit {depth}"].ap for depth in (1, 2, 3)]
    assert measured["coco"] != measured["cityscapes"]
    typed = ["compare", "parent", "--store", str(bench.store.root)]
    assert main([*typed, "--json", "--rules", "cityscapes"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rules"] == "cityscapes"
    assert [row["ap"] for row in found["rows"]] == measured["cityscapes"]
    # The data set is not Cityscapes, so COCO's are those that belong to it.
    usual = compared(bench)
    assert usual.rules == "coco"
    assert {row.rules for row in usual.rows} == {"coco"}
    assert [row.ap for row in usual.rows[:3]] == measured["coco"]
    assert main([*typed, "--rules", "cityscapes"]) == 0
    assert "Rules cityscapes: mIoU and AP as cityscapesScripts computes them" in capsys.readouterr().out
    assert main([*typed, "--rules", "kitti"]) == 2
    assert "--rules is 'kitti', expected coco or cityscapes" in capsys.readouterr().err


def test_run__frontier__marks_what_nothing_beats(bench: Bench) -> None:
    rows = compared(bench).rows
    for row in rows:
        better = [
            other
            for other in rows
            if other.pq >= row.pq and other.gflops <= row.gflops and (other.pq, other.gflops) != (row.pq, row.gflops)
        ]
        assert row.on_frontier == (not better)
    assert any(row.on_frontier for row in rows)


def test_run__out__writes_table_and_plot(bench: Bench, tmp_path: Path) -> None:
    found = compared(bench, out=tmp_path / "out")
    assert [path.name for path in found.files] == ["compare.parquet", "compare.png"]
    table = pq.read_table(tmp_path / "out" / "compare.parquet")
    assert table.to_pylist() == [row.model_dump() for row in found.rows]
    assert table.schema.field("gflops").metadata[b"unit"] == b"GFLOPs"
    with Image.open(tmp_path / "out" / "compare.png") as picture:
        assert picture.size == (1040, 650)


def test_run__split_without_tables__is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match=r"no derived table of one .* with the split 'test'"):
        compare.run(CompareConfig(split="test"), [Contestant("one", bench.inputs["parent"], ())], bench.store)


def test_run__imported_gate__has_no_table_and_is_refused(bench: Bench) -> None:
    contestant = Contestant("one", bench.inputs["parent"], (imported_gate(bench),))
    with pytest.raises(UsageError, match=r"The gate sha256:\w+ was imported: no table .* or leave it out"):
        compare.run(CompareConfig(split="val"), [contestant], bench.store)


def test_run__artifacts_of_another_version_and_parent_in_the_store__are_left_alone(bench: Bench) -> None:
    run_stage(evaluate, bench.config(metrics=("miou",)), bench.inputs, bench.store, Runtime.quiet())
    without_gate = [Contestant("one", bench.inputs["parent"], ())]
    before = compared(bench), compare.run(CompareConfig(), without_gate, bench.store)
    for kind in ("evaluation", "derived"):
        listing = list_artifacts(bench.store, kind)[0]
        own = json.loads(bench.store.blobs.read(bench.store.read_oci(listing.digest).config, "it"))
        old = {**own, "inputs": {"parent": "sha256:" + 64 * "9"}, "files": [], "colour": "an older version's"}
        config = bench.store.blobs.put_bytes(canonical_json(old))
        digest = bench.store.blobs.put_bytes(build_manifest(kind, config, ())).digest
        bench.store.write_provenance(digest, Provenance(created_at="2999-01-01"))
    assert (compared(bench), compare.run(CompareConfig(), without_gate, bench.store)) == before


def other_parent(bench: Bench, folder: Path) -> str:
    """A second parent, whose tables hold other images."""
    first = bench.store.get(bench.inputs["parent"], ParentManifest)
    manifest = first.manifest.model_copy(update={"steps": 8})
    digest = bench.store.put(manifest, {"model.safetensors": first.path_of("model.safetensors")}, names=["two"]).digest
    records = derived_records(0, 5, exit_depths=(1, 2, 3))
    put_derived(bench.store, folder, {"val": records}, exit_depths=(1, 2, 3), parent=digest)
    return digest


def test_run__other_images_under_the_same_name__is_refused(bench: Bench, tmp_path: Path) -> None:
    two = other_parent(bench, tmp_path)
    contestants = [Contestant("one", bench.inputs["parent"], ()), Contestant("two", two, ())]
    with pytest.raises(UsageError, match=r"different images under the split 'val' \(one: 6 images, two: 5 images\)"):
        compare.run(CompareConfig(), contestants, bench.store)


def test_run__gate_of_another_parent__is_refused(bench: Bench, tmp_path: Path) -> None:
    two = other_parent(bench, tmp_path)
    with pytest.raises((ArtifactError, UsageError)):
        compare.run(CompareConfig(), [Contestant("two", two, (bench.inputs["gate"],))], bench.store)


def test_compare__typed__prints_table_or_json(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["compare", "parent:gate", "--store", str(bench.store.root)]
    assert main(typed) == 0
    table = capsys.readouterr().out
    assert "gate, beta 0.001" in table
    assert table.count("exit ") >= 3
    digests = f"{bench.inputs['parent']}:{bench.inputs['gate']}"
    assert main(["compare", digests, "--store", str(bench.store.root), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["choice"] for row in result["rows"]] == ["exit 1", "exit 2", "exit 3", "gate, beta 0.001"]
    assert result["images"] == 6
