"""Runs of the command line in child processes that are killed or signalled at a chosen moment.

The script at the end imports torch once and forks one child per run (two for a run of two processes), because loading
torch costs more than training the tiny model. Nothing in it is imported by the package.
"""

import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers_distributed import free_port

from ecocli.errors import EcoError

_HANGS_AFTER_S = 240.0
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ChildRun:
    """One run of the command line.

    Attributes:
        arguments: Arguments of ``eco``.
        signal: Signal that the process sends to itself; 0 for none.
        at: When: ``step N``, in the middle of the N-th step counted from 0; ``save N``, while the N-th file of
            saved states is written; or ``evaluate N``, before the N-th batch of all evaluations.
        world_size: Number of processes; the signal goes to the last.
    """

    arguments: Sequence[str]
    signal: int = 0
    at: str = "step 0"
    world_size: int = 1


@dataclass(frozen=True)
class ChildResult:
    """What became of a run: the status of each process (minus the signal that killed it), and rank 0's output."""

    statuses: list[int]
    out: str
    err: str


def run_children(folder: Path, runs: Sequence[ChildRun], timeout_s: float = 900.0) -> list[ChildResult]:
    """Run the command line several times, one after the other.

    Args:
        folder: Working directory.
        runs: The runs.
        timeout_s: Limit for all of them, in seconds; generous, since test machines are busy.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([asdict(run) for run in runs]),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [ChildResult(**result) for result in json.loads(done.stdout)]


def _plant(signal: int, at: str) -> None:
    """Let this process send itself a signal at the chosen moment."""
    from ecocli.runtime import files
    from ecocli.scoring import subset_evaluator
    from ecocli.training import loop

    where, number = at.split()
    left = int(number)

    def strike() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal)
        left -= 1

    if where == "step":
        backward = loop.Trainer._backward

        def struck_backward(self: loop.Trainer, *arguments: object) -> object:
            out = backward(self, *arguments)
            strike()
            return out

        loop.Trainer._backward = struck_backward
    elif where == "evaluate":
        agree = subset_evaluator.SubsetEvaluator._agree_to_stop

        def struck_agree(self: subset_evaluator.SubsetEvaluator, failure: EcoError | None) -> bool:
            strike()
            return agree(self, failure)

        subset_evaluator.SubsetEvaluator._agree_to_stop = struck_agree
    else:
        sync = files._sync_and_digest

        def struck_sync(path: Path) -> str:
            strike()
            return sync(path)

        files._sync_and_digest = struck_sync


def _start(run: ChildRun, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(run.world_size))
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    # A process that hangs says where, and ends: its run takes seconds.
    faulthandler.dump_traceback_later(_HANGS_AFTER_S, exit=True)
    from ecocli.__main__ import main

    if run.signal and rank == run.world_size - 1:
        _plant(run.signal, run.at)
    code = main(list(run.arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(run: ChildRun) -> ChildResult:
    # A port of its own, chosen now: one kept for all runs may be another program's by the time it is used.
    os.environ["MASTER_PORT"] = str(free_port())
    children = [_start(run, rank) for rank in range(run.world_size)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return ChildResult(statuses, Path("out0").read_text(), Path("err0").read_text())


if __name__ == "__main__":
    # Loaded before the forks: everything that takes time.
    import matplotlib.figure  # noqa: F401
    import torch

    # What the first optimizer imports, two thirds of a short run's time.
    import torch._dynamo

    import ecocli.scoring.subset_evaluator
    import ecocli.stages.train_parent
    import ecocli.training.loop  # noqa: F401

    torch.set_num_threads(1)
    found = [asdict(_run(ChildRun(**run))) for run in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(found))
