"""A derivation in parts: any size, shards, interruptions and damage end in the same table or are refused."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from helpers_derive import config, inputs
from helpers_evaluation import Bench
from helpers_stages import run_stage

from ecocli.artifacts import tables
from ecocli.artifacts.action import execute
from ecocli.artifacts.tables import write_table
from ecocli.config.derive import DeriveConfig
from ecocli.errors import ArtifactError, InterruptedRunError
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import sealing
from ecocli.scoring import score_exits
from ecocli.stages import derive
from ecocli.stages.derive import Shard, plan, plan_parts, take_shard


def test_run__parts_of_another_size__same_bytes(bench: Bench, derived: SimpleNamespace) -> None:
    again = run_stage(derive, config(bench, part_images=4), inputs(bench), bench.store, Runtime.quiet(), force=True)
    assert again.digest == derived.artifact.digest


def test_take_shard__three_shards_in_any_order__last_one_joins(bench: Bench, derived: SimpleNamespace) -> None:
    runtime = Runtime.quiet()
    planned = plan(config(bench), inputs(bench), bench.store, runtime)
    assert [take_shard(planned, bench.store, runtime, Shard(i, 3), force=True) for i in (2, 0, 1)] == [
        False,
        False,
        True,
    ]
    assert execute(planned, bench.store, runtime, force=True).digest == derived.artifact.digest
    # A late task of the array finds the result.
    assert take_shard(planned, bench.store, runtime, Shard(0, 3))


def test_run__stop_requested__keeps_finished_parts_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(bench, splits=("val",), batch_size=1)  # no other test has derived just this
    stopped = Runtime.quiet()
    write = tables.write_table
    monkeypatch.setattr(tables, "write_table", lambda *a: (write(*a), stopped.stop.request("SIGTERM")))
    with pytest.raises(InterruptedRunError, match=r"Stopped by SIGTERM after 1 of 3 parts .* resumes from here"):
        run_stage(derive, settings, inputs(bench), bench.store, stopped)
    computed = []
    original = score_exits.score_prediction
    monkeypatch.setattr(score_exits, "score_prediction", lambda *a: computed.append(a[0].image_id) or original(*a))
    artifact = run_stage(derive, settings, inputs(bench), bench.store, Runtime.quiet())
    # Four of six images were left, each scored at three exits.
    assert len(computed) == 4 * 3
    assert artifact.manifest.rows == {"val": 6}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from ecocli.artifacts import tables
from ecocli.artifacts.store import Store
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import DeriveConfig
from ecocli.runtime.context import Runtime
import ecocli.stages.derive as stage
from helpers_stages import run_stage
config = DeriveConfig.model_validate_json(sys.argv[3])
written = tables.write_table
def write_and_die(path, table):
    if len(list(path.parents[1].glob("*-part-*"))) == 1:  # in the second part: half a file, then kill -9
        (path.parent / "123-abc.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    written(path, table)
tables.write_table = write_and_die
run_stage(stage, config, {"parent": sys.argv[2]}, Store(Path(sys.argv[1])))
"""


def test_run__killed_in_the_second_part__goes_on_to_the_same_digest(bench: Bench, tmp_path: Path) -> None:
    settings = config(bench, splits=("train",), batch_size=1, part_images=1)
    text = settings.model_dump_json(exclude={"execution"})
    given = DeriveConfig.model_validate_json(text).model_copy(update={"execution": settings.execution})
    raw = given.model_dump(mode="json") | {"execution": settings.execution.model_dump()}
    raw["dataset"]["root"] = bench.dataset.root

    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(bench.store.root), bench.inputs["parent"], json.dumps(raw)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    planned = plan(settings, inputs(bench), bench.store, Runtime.quiet())
    parts = plan_parts(settings, planned.subject, bench.store.run_dir(planned.action.digest))
    assert [part.is_finished for part in parts] == [True, False, False, False]
    resumed = run_stage(derive, settings, inputs(bench), bench.store, Runtime.quiet())
    fresh = run_stage(derive, settings, inputs(bench), bench.store, Runtime.quiet(), force=True)
    assert resumed.digest == fresh.digest


def test_run__part_with_a_missing_row__is_refused_and_removed(bench: Bench) -> None:
    settings = config(bench, splits=("val",), batch_size=6, part_images=3)
    planned = plan(settings, inputs(bench), bench.store, Runtime.quiet())
    first, second = plan_parts(settings, planned.subject, bench.store.run_dir(planned.action.digest))
    whole = pq.read_table(run_stage(derive, config(bench), inputs(bench), bench.store).path_of("val.parquet"))
    # Sealed as the part's own: only its content tells.
    for part, rows in ((first, whole.slice(1, 3)), (second, whole.slice(4))):
        with sealing(part.path, part.holds) as folder:
            write_table(folder / "rows.parquet", rows)
    with pytest.raises(ArtifactError, match=r"is damaged \(it holds \d rows, expected .* \d images\).*removed"):
        run_stage(derive, settings, inputs(bench), bench.store, Runtime.quiet(), force=True)
    assert not (first.is_finished and second.is_finished)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone", "pipe", "more", "swapped", "other run"])
@pytest.mark.parametrize("name", ["rows.parquet", "seal.json"])
def test_run__damaged_part__is_dropped_and_computed_again(
    bench: Bench, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    settings = config(bench, splits=("train",), batch_size=1, part_images=2)
    expected = run_stage(derive, settings, inputs(bench), bench.store, Runtime.quiet())
    planned = plan(settings, inputs(bench), bench.store, Runtime.quiet())
    folder = bench.store.run_dir(planned.action.digest)
    parts = plan_parts(settings, planned.subject, folder)
    planned.work(folder)
    file = parts[0].path / name
    content = bytearray(file.read_bytes())
    if damage in ("swapped", "other run"):
        shutil.rmtree(parts[0].path)
        shutil.copytree(parts[1].path, parts[0].path)
        if damage == "other run":
            shutil.rmtree(parts[0].path)
            strange = dataclasses.replace(parts[0], folder=folder.with_name("other"))
            with sealing(parts[0].path, strange.holds) as made:
                shutil.copy(parts[1].path / "rows.parquet", made)
    elif damage == "more":
        (parts[0].path / "more").write_bytes(b"")
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncated":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
        if damage == "pipe":
            os.mkfifo(file)
    again = run_stage(derive, settings, inputs(bench), bench.store, Runtime.quiet(), force=True)
    assert f"The finished part {parts[0].path} is damaged (" in caplog.text
    assert again.digest == expected.digest
