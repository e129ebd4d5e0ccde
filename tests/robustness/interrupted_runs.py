"""Kills and damages interrupted runs of every stage that keeps parts or states, and runs them again.

    python tests/robustness/interrupted_runs.py --kills 300 --damages 300

Each trial forks a process that runs a stage and dies of SIGKILL at one of its changes to the file system. A trial with
damage then changes one file that the run left: a byte, its end, all of it, or another run's file in its place. The same
stage runs again. Right is: the digest of an undisturbed run, or an error of the project that names a file below the run
folder, and the digest at the next run. Anything else is printed, and the exit status is 1.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from helpers_evaluation import Bench, make_bench
from helpers_stages import run_stage
from helpers_training import tiny_config

from ecocli.artifacts.checking import verify
from ecocli.artifacts.store import Store
from ecocli.config.base import Config
from ecocli.config.derive import DeriveConfig, DeriveExecutionConfig
from ecocli.errors import EcoError
from ecocli.runtime.context import Runtime
from ecocli.stages import derive, evaluate, train_parent

_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


@dataclass(frozen=True)
class Case:
    """One stage with settings that leave several parts or states."""

    name: str
    stage: ModuleType
    config: Config
    inputs: dict[str, str]

    def run(self, store: Store) -> str:
        """Run the stage and return the artifact's digest."""
        return run_stage(self.stage, self.config, self.inputs, store, Runtime.quiet(), force=True).digest

    def folder(self, store: Store) -> Path:
        """The folder that keeps what an interrupted run leaves."""
        return store.run_dir(self.stage.plan(self.config, self.inputs, store, Runtime.quiet()).action.digest)


def make_cases(bench: Bench) -> list[Case]:
    """Cases over the stages that resume."""
    parent = {"parent": bench.inputs["parent"]}
    parts = DeriveExecutionConfig(part_images=2)
    training = tiny_config(
        dataset={"root": bench.dataset.root, "name": bench.dataset.name},
        batch_size=2,
        steps=4,
        log_every=2,
        evaluation={"every": 2, "images": 2, "split": "val"},
        execution={"checkpoint_every": 1, "workers": 0},
    )
    return [
        Case(
            "derive",
            derive,
            DeriveConfig(dataset=bench.dataset, splits=("val",), batch_size=1, execution=parts),
            parent,
        ),
        Case("eval", evaluate, bench.config(), bench.inputs),
        Case("train-parent", train_parent, training, {}),
    ]


def in_child(work: Callable[[], str], kill_at: int | None = None) -> tuple[str, str]:
    """Run something in a forked process.

    Args:
        work: Returns a digest.
        kill_at: Die of SIGKILL at this change to the file system.

    Returns:
        How it ended (``killed``, ``done``, ``error``, ``traceback``) and its digest or message.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        left = kill_at

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            is_writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if left is not None and (event in _CHANGES or is_writing):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        if kill_at is not None:
            sys.addaudithook(watch)
        try:
            text = "done " + work()
        except EcoError as error:
            text = f"error {error}"
        except BaseException:
            text = f"traceback {traceback.format_exc()}"
        os.write(writing, text.encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        kind, _, text = pipe.read().decode().partition(" ")
    os.waitpid(child, 0)
    return (kind, text) if kind else ("killed", "")


def damage(folder: Path, other: Path, dice: random.Random) -> str:
    """Change one file of a run folder; returns what was done, empty if there is no file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return ""
    path = dice.choice(files)
    data = path.read_bytes()
    kind = dice.choice(["flip", "cut", "grow", "remove", "swap", "empty"])
    others = sorted(found for found in other.rglob("*") if found.is_file() and found.name == path.name) + files
    if kind == "flip" and data:
        place = dice.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << dice.randrange(8))]) + data[place + 1 :])
    elif kind == "cut":
        path.write_bytes(data[: dice.randrange(len(data) + 1)])
    elif kind == "grow":
        path.write_bytes(data + b"\n")
    elif kind == "swap":
        path.write_bytes(dice.choice(others).read_bytes())
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    return f"{kind} {path.relative_to(folder)}"


def main() -> int:
    """Run the trials and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--damages", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dice = random.Random(options.seed)
    work = Path(tempfile.mkdtemp())
    results: Counter[str] = Counter()
    wrong = 0
    try:
        bench = make_bench(work)
        store, cases = bench.store, make_cases(bench)
        expected = {case.name: in_child(partial(case.run, store)) for case in cases}
        print({name: text[:19] for name, (_, text) in expected.items()}, flush=True)
        if any(kind != "done" for kind, _ in expected.values()):
            print(expected)
            return 1
        changes = {case.name: _count_changes(case, store) for case in cases}
        print("changes to the file system:", changes, flush=True)
        other = work / "other"
        for trial in range(options.kills + options.damages):
            case = cases[trial % len(cases)]
            folder = case.folder(store)
            end, _ = in_child(partial(case.run, store), dice.randrange(changes[case.name]))
            done = ""
            if trial >= options.kills and folder.is_dir():
                done = damage(folder, other, dice)
            shutil.rmtree(other, ignore_errors=True)
            if folder.is_dir():
                shutil.copytree(folder, other)
            kind, text = in_child(partial(case.run, store))
            if kind == "error" and str(folder) in text:
                results["named the file"] += 1
                kind, text = in_child(partial(case.run, store))
            if (kind, text) != expected[case.name]:
                wrong += 1
                print(f"WRONG {case.name} {end} {done}: {kind} {text[:2000]}", flush=True)
            elif case.folder(store).is_dir() and any(case.folder(store).iterdir()):
                wrong += 1
                print(f"WRONG {case.name} {end} {done}: left {sorted(case.folder(store).iterdir())}", flush=True)
            results[f"{'damaged' if done else 'killed' if end == 'killed' else 'undisturbed'}, right digest"] += 1
        faults = verify(store)
        if faults:
            wrong += 1
            print("WRONG store:", *[fault.sentence() for fault in faults[:5]], sep="\n  ")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(dict(results), f"wrong: {wrong}")
    return 1 if wrong else 0


def _count_changes(case: Case, store: Store) -> int:
    """Find the number of changes one run makes: the least at which nothing is killed any more."""
    low, high = 1, 64
    while in_child(partial(case.run, store), high)[0] == "killed":
        low, high = high, 2 * high
    while high - low > 8:
        middle = (low + high) // 2
        if in_child(partial(case.run, store), middle)[0] == "killed":
            low = middle
        else:
            high = middle
    return high


if __name__ == "__main__":
    sys.exit(main())
