"""Two gloo processes on this machine agree. Expected values are worked by hand."""

import json

import pytest
from helpers_distributed import ProcessResult, run_processes

_SCRIPT = """
import os, sys, time
import torch
from ecocli.commands.common import emit_result, make_runtime
from ecocli.errors import EcoError

with make_runtime("cpu", 1) as runtime:
    world = runtime.world
    runtime.log.info("hello")
    start = time.monotonic()
    time.sleep(0.5 * (1 - world.rank))
    world.barrier()
    waited_s = time.monotonic() - start
    if world.rank == 1:
        os.kill(os.getpid(), __import__("signal").SIGTERM)
    tensor = torch.tensor([1.0, 2.0]) * (world.rank + 1)
    same = world.sum_(tensor) is tensor
    seen = {
        "rank": world.rank,
        "is_main": world.is_main,
        "sum": tensor.tolist(),
        "in_place": same,
        "any_one": world.any(world.rank == 1),
        "any_none": world.any(False),
        "should_stop": runtime.should_stop(),
        "own_stop": runtime.stop.requested,
        "objects": world.gather_objects({"rank": world.rank, "text": "x" * (1 + 100 * world.rank)}),
        "broadcast": world.broadcast_object(f"from {world.rank}"),
        "waited": waited_s >= 0.45,
    }
    everyone = world.gather_objects(seen)
    emit_result(world, {"everyone": everyone}, as_json=True)
assert not torch.distributed.is_initialized()
"""


@pytest.fixture(scope="module")
def results() -> list[ProcessResult]:
    """What two processes saw."""
    return run_processes(["-c", _SCRIPT])


def test_world__of_two__agrees_on_everything(results: list[ProcessResult]) -> None:
    assert [result.code for result in results] == [0, 0], results
    everyone = json.loads(results[0].out)["everyone"]
    common = {
        "sum": [3.0, 6.0],
        "in_place": True,
        "any_one": True,
        "any_none": False,
        "should_stop": True,
        "objects": [{"rank": 0, "text": "x"}, {"rank": 1, "text": "x" * 101}],
        "broadcast": "from 0",
        # Rank 0 slept 0.5 s before the barrier, rank 1 waited there for as long.
        "waited": True,
    }
    assert everyone == [
        {"rank": 0, "is_main": True, "own_stop": False, **common},
        {"rank": 1, "is_main": False, "own_stop": True, **common},
    ]


def test_world__of_two__only_rank_0_writes_to_stdout_and_logs(results: list[ProcessResult]) -> None:
    assert results[0].out.count("\n") == 1
    assert results[1].out == ""
    assert results[0].err == "hello\n"
    assert results[1].err == "SIGTERM: stopping after the current step, its state is saved\n"
