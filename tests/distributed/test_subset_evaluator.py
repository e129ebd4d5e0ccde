"""Evaluations between the steps on two gloo processes: the numbers of one, the weights of the main one, one way out."""

import json
import os
import sys
from pathlib import Path

from helpers_distributed import run_processes
from helpers_inference import EXIT_DEPTHS, TINY, tiny_dataset_config, tiny_model
from helpers_own_truth import make_own_truth

from ecocli.config.dataset import DatasetConfig
from ecocli.data.datasets import open_dataset
from ecocli.runtime.context import Runtime
from ecocli.scoring.subset_evaluator import SubsetEvaluator
from ecocli.tasks.registry import task_of
from ecocli.training.evaluation import name_qualities

_SCRIPT = """
import dataclasses, json, logging, sys
from types import SimpleNamespace
import torch
from ecocli.config.dataset import DatasetConfig
from ecocli.errors import DataError
from ecocli.runtime.context import Runtime
from ecocli.runtime.distributed import exit_process, setup_world, leave_world
from ecocli.training.evaluation import PeriodicEvaluation, name_qualities
from helpers_inference import tiny_model
from test_subset_evaluator import evaluator

world = setup_world()
runtime = dataclasses.replace(Runtime.quiet(), world=world)
evaluate = evaluator(DatasetConfig.model_validate(json.loads(sys.argv[1])), runtime)
model = tiny_model()
told = {"found": name_qualities(evaluate(model.state_dict()))}

# A buffer that differs from process to process, as batch norm statistics do that are not synchronised.
norm = torch.nn.BatchNorm1d(2)
norm.running_mean.fill_(world.rank)
seen = {}
judge = lambda weights: seen.update(weights)
PeriodicEvaluation(
    judge, norm, SimpleNamespace(weights=norm.state_dict), world, split="val", log=logging.getLogger()
).run([])
told["mean"] = seen["running_mean"].tolist()
told["own mean"] = norm.running_mean.tolist()

if world.rank == 1:
    runtime.stop.request("SIGTERM")
told["stopped"] = evaluate(model.state_dict()) is None
runtime.stop.requested = False

if world.rank == 1:
    dataset = evaluate._dataset
    dataset.panoptic_path(dataset.records[1]).unlink()  # this process reads it, in its first batch
world.barrier()
try:
    evaluate(model.state_dict())
except DataError as error:
    told["error"] = str(error)
leave_world(world)
print(json.dumps(told))
exit_process(0)
"""


def evaluator(data: DatasetConfig, runtime: Runtime) -> SubsetEvaluator:
    """Score three of five images, one in a batch: two fall to the first process, one to the second."""
    dataset = open_dataset(data, "val")
    task = task_of(TINY)
    score, load_truth = task.scorer(TINY, dataset.categories, "ap")
    return SubsetEvaluator(
        dataset,
        TINY,
        EXIT_DEPTHS,
        data.test_resize,
        runtime,
        score=score,
        load_truth=load_truth,
        qualities=lambda results: task.qualities(results, dataset.categories),
        images=3,
        batch_size=1,
        precision="float32",
    )


def test_call__two_processes__numbers_of_one_and_one_way_out(tmp_path: Path) -> None:
    data = make_own_truth(tiny_dataset_config(tmp_path, val=5), tmp_path / "own")
    one = evaluator(data, Runtime.quiet())(tiny_model().state_dict())
    assert one is not None
    expected = name_qualities(one)
    assert expected["evaluation.exits.1.pq"] > 0.0
    folders = os.pathsep.join(folder for folder in [str(Path(__file__).parent), *sys.path] if folder)
    results = run_processes(
        ["-c", _SCRIPT, data.model_dump_json(exclude={"root"})],
        timeout_s=240,
        extra_environment={"PYTHONPATH": folders},
    )
    assert [result.code for result in results] == [0, 0], results[0].err + results[1].err
    told = [json.loads(result.out) for result in results]
    assert told[0]["found"] == told[1]["found"] == expected
    assert [one["mean"] for one in told] == [[0.0, 0.0], [0.0, 0.0]]
    assert [one["own mean"] for one in told] == [[0.0, 0.0], [1.0, 1.0]]
    assert [one["stopped"] for one in told] == [True, True]
    assert "is missing" in told[0]["error"]
    assert told[0]["error"] == told[1]["error"]
