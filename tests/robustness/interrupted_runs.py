"""Kills and damages interrupted runs of every stage, and runs them again.

    python tests/robustness/interrupted_runs.py --kills 300 --damages 300

Each trial starts from a copy of one store, and forks a process that runs a stage and dies of SIGKILL at one of its
changes to the file system; the trials of a stage are spread over all of its changes, ``--every-change`` takes each
once. A trial with damage then changes one file that the run left: a byte, its end, all of it, or another file in its
place. The same stage runs again. Right is the result of an undisturbed run, or an error of the project that names a
file below the trial's folder, and then the result at the next run, or with ``--force``. Of a damaged file that belongs
to no run (a record of a finished artifact, the index of a plain layout) it is enough that the error or `store verify`
names it. Nothing else may be left: no name may be lost, the index must be that of the names, the store must verify, and
after `gc` no run folder and no temporary file may be there. Anything else is printed, and the exit status is 1.
"""

import argparse
import faulthandler
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from interrupted_cases import Case, make_cases

from ecocli.artifacts.checking import verify
from ecocli.artifacts.collecting import collect
from ecocli.artifacts.oci import read_index
from ecocli.artifacts.store import Store
from ecocli.errors import EcoError

_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.chmod", "shutil.rmtree")
_NEVER = 1 << 60


def in_child(work: Callable[[], str], kill_at: int = _NEVER) -> tuple[str, str, int]:
    """Run something in a forked process.

    Args:
        work: Returns a text.
        kill_at: Die of SIGKILL at this change to the file system, counted from 0.

    Returns:
        How it ended (``killed``, ``done``, ``error``, ``traceback``, ``crashed``), its text, message or signal, and the
        changes it made.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        changes = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal changes
            is_writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in _CHANGES or is_writing:
                if changes == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                changes += 1

        sys.addaudithook(watch)
        try:
            kind, text = "done", work()
        except EcoError as error:
            kind, text = "error", str(error)
        except BaseException:
            kind, text = "traceback", traceback.format_exc()
        os.write(writing, f"{kind} {changes} {text}".encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        kind, _, rest = pipe.read().decode().partition(" ")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        # Nobody sent it: a library below Python. Where it was is on stderr.
        return "crashed", signal.Signals(os.WTERMSIG(status)).name, kill_at
    count, _, text = rest.partition(" ")
    return (kind, text, int(count)) if kind else ("killed", "", kill_at)


class Trials:
    """The trials of all cases, and what came of them.

    Args:
        cases: The stages.
        work: An empty folder for the trials.
        seed: Of places and kinds of damage.
    """

    def __init__(self, cases: list[Case], work: Path, seed: int) -> None:
        self._work, self._dice = work, random.Random(seed)
        self._other = work / "other"
        self.results: Counter[tuple[str, str]] = Counter()
        self.wrong = 0
        self.expected: dict[str, str] = {}
        self.changes: dict[str, int] = {}
        self._names = {case.name: Store(case.store).names() for case in cases}
        for case in cases:
            # Once in this process: what is imported here need not be in every child.
            store, out = self._start(case)
            case.run(store, out, False)
            store, out = self._start(case)
            kind, text, changes = in_child(partial(case.run, store, out, False))
            if kind != "done":
                raise RuntimeError(f"{case.name} does not run at all: {text}")
            self.expected[case.name], self.changes[case.name] = text, changes

    def _start(self, case: Case) -> tuple[Store, Path]:
        shutil.rmtree(self._work / "trial", ignore_errors=True)
        shutil.copytree(case.store, self._work / "trial" / "store")
        (self._work / "trial" / "out").mkdir()
        return Store(self._work / "trial" / "store"), self._work / "trial" / "out"

    def run(self, case: Case, kill_at: int, damaged: bool) -> None:
        """Kill, damage if asked, run again, and judge."""
        store, out = self._start(case)
        before = _files(self._work / "trial")
        end, died_of, _ = in_child(partial(case.run, store, out, False), kill_at)
        done = ""
        if damaged:
            left = _files(self._work / "trial") - before
            # What is kept for the next run is of most interest.
            kept = {path for path in left if store.layout.runs in path.parents} if self._dice.random() < 0.8 else left
            done = damage(sorted(kept or left), self._other, self._dice)
        if case.folder is not None and (runs := sorted(store.layout.runs.iterdir())):
            shutil.rmtree(self._other, ignore_errors=True)
            shutil.copytree(runs[0], self._other)
        if end == "crashed":
            self.wrong += 1
            print(f"WRONG {case.name} before change {kill_at}: {died_of}", flush=True)
        kind, text, _ = in_child(partial(case.run, store, out, False))
        how = "healed"
        for force in (False, True):
            if kind == "error" and str(self._work / "trial") in text:
                how = "named the file"
                kind, text, _ = in_child(partial(case.run, store, out, force))
        faults = self._left(case, store) if (kind, text) == ("done", self.expected[case.name]) else [f"{kind} {text}"]
        place = done.partition(" ")[2]
        is_kept = store.layout.runs in Path(place).parents and (kind, text) != ("done", self.expected[case.name])
        if done and not is_kept and all(str(Path(place).parent) in fault for fault in faults):
            # A record beside a finished artifact, another tool's index, or a run that is over: only naming helps.
            how, faults = ("named the file", []) if faults else (how, faults)
        if faults:
            self.wrong += 1
            print(f"WRONG {case.name} at change {kill_at} ({end}) {done}:", *faults, sep="\n  ", flush=True)
        what = "damaged" if done else "killed" if end == "killed" else "undisturbed"
        self.results[case.name, f"{what}, {how}"] += 1

    def _left(self, case: Case, store: Store) -> list[str]:
        """What should not be there after the last run."""
        names = store.names()
        lost = [name for name, digest in self._names[case.name].items() if names.get(name) != digest]
        # A stage sets the name of its kind.
        faults = [f"lost the name {name}" for name in lost if names.get(name) != self.expected[case.name]]
        if {name: digest for name, digest, _ in read_index(store.layout.index)} != names:
            faults.append("the index is not that of the names")
        faults += [fault.sentence() for fault in verify(store)]
        out = self._work / "trial" / "out"
        for place in (store, *(Store(path.parent) for path in out.glob("*/eco"))):
            collect(place, 0.0)
        faults += [f"left {path}" for folder in (store.layout.runs, store.layout.scratch) for path in folder.iterdir()]
        faults += [f"left {path}" for path in out.rglob(".*")]
        if case.folder is not None:
            faults += [fault.sentence() for fault in store.closure_faults(self.expected[case.name], full=True)]
        return faults


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def damage(files: list[Path], other: Path, dice: random.Random) -> str:
    """Change one of some files; returns what was done, empty if there is no file.

    Args:
        files: The files.
        other: What another run left, to put in a file's place.
        dice: Chooses.
    """
    if not files:
        return ""
    path = dice.choice(files)
    data = path.read_bytes()
    kind = dice.choice(["flip", "cut", "grow", "remove", "swap", "empty"])
    others = [found for found in sorted(other.rglob("*")) if found.is_file() and found.name == path.name] or files
    path.chmod(0o644)
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
    return f"{kind} {path}"


def main() -> int:
    """Run the trials and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--damages", type=int, default=300)
    parser.add_argument("--every-change", action="store_true", help="kill once at every change, whatever --kills")
    parser.add_argument("--only", help="name of one case")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM):
        # What a shell started in the background ignores the first of them.
        signal.signal(number, signal.default_int_handler)
    work = Path(tempfile.mkdtemp())
    trials: Trials | None = None
    try:
        cases = [case for case in make_cases(work) if options.only in (None, case.name)]
        trials = Trials(cases, work, options.seed)
        print("changes to the file system:", trials.changes, flush=True)
        keeping = [case for case in cases if case.name in ("derive", "eval", "train-parent")] or cases
        for case in cases:
            changes = trials.changes[case.name]
            share = changes if options.every_change else -(-options.kills // len(cases))
            for trial in range(share):
                trials.run(case, (trial * changes // share + options.seed) % changes, damaged=False)
            print(case.name, share, "kills,", trials.wrong, "wrong", flush=True)
        for trial in range(options.damages):
            # Two of three at the stages that keep something for their next run.
            turn, rest = divmod(trial, 3)
            case = cases[turn % len(cases)] if rest == 0 else keeping[(2 * turn + rest) % len(keeping)]
            kill_at = random.Random(f"{options.seed} {trial}").randrange(trials.changes[case.name])
            trials.run(case, kill_at, damaged=True)
            if trial % 20 == 19:
                print(trial + 1, "damages,", trials.wrong, "wrong", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        # Also what a Ctrl-C cuts short counts.
        if trials is not None:
            for (name, kind), count in sorted(trials.results.items()):
                print(f"{name:14} {kind:28} {count}")
            print(f"{sum(trials.results.values())} trials, {trials.wrong} wrong", flush=True)
    return 1 if trials.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
