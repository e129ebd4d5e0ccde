"""Two gloo processes on this machine agree. Expected values are worked by hand."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_distributed import ProcessResult, run_processes

_SCRIPT = """
import os, sys, time
import torch
from ecocli.commands.common import emit_result, make_runtime
from ecocli.errors import EcoError
from ecocli.runtime.distributed import exit_process

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
exit_process(0)
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
    assert results[1].err == "SIGTERM: stopping; what is finished is kept\n"


_LEAVING = """
import sys, time
from ecocli.commands.common import make_runtime
from ecocli.runtime.distributed import exit_process

with make_runtime("cpu", 1) as runtime:
    if runtime.world.rank == 0:
        time.sleep(1.0)
        if sys.argv[1] == "failing":
            raise ValueError("oh")
    start = time.monotonic()
if runtime.world.rank == 1:
    print("waited" if time.monotonic() - start > 0.2 else "left")
exit_process(0)
"""


def test_leave_world__one_is_slower__the_other_waits() -> None:
    results = run_processes(["-c", _LEAVING, "slow"])
    assert [(result.code, result.out, result.err) for result in results] == [(0, "", ""), (0, "waited\n", "")]


def test_leave_world__one_fails__it_leaves_at_once_and_the_other_is_done() -> None:
    failed, done = run_processes(["-c", _LEAVING, "failing"])
    assert failed.code == 1
    assert failed.err.endswith("ValueError: oh\n")
    assert (done.code, done.out) == (0, "waited\n")
    assert done.err.startswith("[rank 1] warning: Left without the other processes: ")


_DESERTING = """
import sys
from ecocli import __main__ as entry_point
from ecocli.commands.common import make_runtime
from ecocli.errors import DataError

def work(arguments):
    with make_runtime("cpu", 1) as runtime:
        if runtime.world.rank == 0:
            raise DataError("Half a picture.")
        runtime.world.barrier()
    return 0

entry_point._run = work
entry_point.run()
"""


def test_run__another_process_has_failed__its_message_alone_says_why() -> None:
    failed, deserted = run_processes(["-c", _DESERTING])
    assert (failed.code, failed.err) == (3, "error: Half a picture.\n")
    assert (deserted.code, deserted.err.count("\n")) == (1, 1), deserted.err
    assert deserted.err.startswith("error: another process of this run has ended; its own message says why.")


_STOPPED_IN_TRAINING = """
import faulthandler, os, socket
import torch
import torch._dynamo  # the model in parallel loads it
from torch.nn.parallel import DistributedDataParallel
from ecocli.commands.common import make_runtime
from ecocli.runtime.distributed import exit_process

def train(rank, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_PORT=str(port))
    with make_runtime("cpu", 1) as runtime:
        model = DistributedDataParallel(torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(6)]))
        model(torch.randn(8, 64)).sum().backward()
        if runtime.world.any(rank == 1):
            raise ValueError("stopped")

def one_of_two(rank, port):
    faulthandler.dump_traceback_later(20, exit=True)
    try:
        train(rank, port)
    except ValueError as error:
        code = 5  # with the error ends the last that holds the model
    exit_process(code)

# Forked, because loading torch takes longer than all of it.
statuses = []
for attempt in range(5):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    children = []
    for rank in range(2):
        children.append(os.fork())
        if not children[-1]:
            one_of_two(rank, port)
    statuses += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(statuses)
"""


def test_leave_world__error_holds_the_model_in_parallel__no_process_hangs() -> None:
    # Taking the group apart waited for a thread that waited for the interpreter, in about every second attempt.
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_IN_TRAINING], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == f"{10 * [5]}\n", done.stderr


_STOPPING = """
import os, time
from ecocli.commands.common import make_runtime
from ecocli.runtime.distributed import exit_process

def say(word):
    # One system call: print() writes the line and its end apart, and both processes write to one pipe.
    os.write(1, f"{word}\\n".encode())

with make_runtime("cpu", 1) as runtime:
    runtime.world.barrier()
    say("ready")
    deadline = time.monotonic() + 60
    while not runtime.stop.requested and time.monotonic() < deadline:
        time.sleep(0.02)
    # What saving a state may take.
    runtime.world.barrier()
    say(runtime.stop.reason)
exit_process(5)
"""


def test_torchrun__sigusr1_with_the_environment_of_the_recipes__reaches_every_process(tmp_path: Path) -> None:
    pipelines = Path(__file__).resolve().parents[2] / "pipelines"
    exports = [
        line.split()[1:]
        for script in sorted(pipelines.rglob("*"))
        if script.suffix in (".sh", ".sbatch") and re.search(r"^[^#]*\btorchrun ", script.read_text(), re.MULTILINE)
        for line in script.read_text().splitlines()
        if line.strip().startswith("export PET_")
    ]
    assert len(exports) == 2
    assert exports[0] == exports[1]
    (tmp_path / "stopping.py").write_text(_STOPPING)
    launcher = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "stopping.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            **dict(pair.split("=") for pair in exports[0]),
            "PYTHONPATH": str(pipelines.parent),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert launcher.stdout is not None
        assert [launcher.stdout.readline() for _ in range(2)] == ["ready\n", "ready\n"]
        launcher.send_signal(signal.SIGUSR1)
        out, _ = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
        launcher.communicate()
    assert (launcher.returncode, out) == (1, "SIGUSR1\nSIGUSR1\n")
