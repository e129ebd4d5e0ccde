"""An evaluation on two gloo processes: the artifact of one process, bit for bit, printed once."""

import json
from pathlib import Path

from helpers_distributed import run_processes
from helpers_evaluation import make_bench
from helpers_stages import run_stage

from ecocli.runtime.context import Runtime
from ecocli.stages import evaluate


def test_eval__two_processes__give_the_artifact_of_one(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    one = run_stage(evaluate, bench.config(), bench.inputs, bench.store, Runtime.quiet())
    arguments = ["eval", "--store", str(bench.store.root), "--data-root", str(bench.dataset.root), "--device", "cpu"]
    settings = {
        "batch_size": 2,
        "bootstrap_replicates": 50,
        "execution.timed_images": 0,
        "execution.part_images": 2,
    }
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    results = run_processes(["-m", "ecocli", *arguments, "--threads", "1", "--force", "--json"], 2, timeout_s=240)
    assert [result.code for result in results] == [0, 0], results[0].err + results[1].err
    assert json.loads(results[0].out)["digest"] == one.digest
    assert results[1].out == ""
    assert "evaluating 6/6 image 100%" in results[0].err  # it was run, not reused
    assert bench.store.read_provenance(one.digest).world_size == 2
