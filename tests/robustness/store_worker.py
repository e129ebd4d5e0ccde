"""A process that uses a store while its parent test watches, kills it or takes things away from it.

Usage: ``python store_worker.py MODE STORE ARGUMENTS...``. What it has achieved it prints, line by line.
"""

import fcntl
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from helpers_store import gate_manifest, put_gate

from ecocli.artifacts.action import Action, Made, Plan, execute
from ecocli.artifacts.digest import sha256_bytes
from ecocli.artifacts.manifest import FileContents, GateManifest
from ecocli.artifacts.store import Store
from ecocli.config.base import Config
from ecocli.errors import EcoError
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import write_bytes


class _Beta(Config):
    beta: float = 0.1


ACTION = Action("fit-gate", 1, _Beta())


def _say(*words: object) -> None:
    # One system call, so that a kill cannot cut a line.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def put_many(store: Store, round_: str, worker: str, count: str) -> None:
    """Put artifacts of its own and shared ones, and tell each name once it is set."""
    for number in range(int(count)):
        name = f"r{round_}-w{worker}-{number}"
        files: FileContents = {"own": name.encode() * 2000, "shared": b"shared" * 5000}
        # A request of its own for each, which its manifest answers.
        beta = int(sha256_bytes(name.encode()).removeprefix("sha256:")[:12], 16) / 16**12
        action = gate_manifest(beta).action_digest("fit-gate")
        artifact = put_gate(store, beta, files, action=action, names=(name,))
        _say(name, artifact.digest)
        store.set_name("latest", artifact.digest)


def compute(store: Store, log: str, locks: str) -> None:
    """Run an action that takes a while; `locks` is ``held`` or ``broken``."""
    if locks == "broken":
        fcntl.flock = lambda *arguments: None

    def work(run_dir: Path) -> Made[GateManifest]:
        with Path(log).open("a") as file:
            file.write("worked\n")
        time.sleep(0.5)
        write_bytes(run_dir / "gate.safetensors", b"weights" * 10_000, run_dir)
        return Made(gate_manifest(), {"gate.safetensors": run_dir / "gate.safetensors"})

    _say(execute(Plan(ACTION, GateManifest, work), store, Runtime.quiet()).digest)


def checkpoint_forever(store: Store) -> None:
    """Start an action, save a checkpoint, and never come to an end."""

    def work(run_dir: Path) -> Made[GateManifest]:
        (run_dir / "checkpoint").write_bytes(b"step 5")
        _say("saved")
        time.sleep(600)
        raise AssertionError("the test did not kill this process")

    execute(Plan(ACTION, GateManifest, work), store, Runtime.quiet())


def fill(store: Store, limit_bytes: str) -> None:
    """Put a small artifact, then a larger one than the file size limit allows."""
    put_gate(store, 0.1, names=("small",))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit_bytes), int(limit_bytes)))
    _expect_refusal(store, {"big": b"x" * (int(limit_bytes) + 1)})


def write_unprivileged(store: Store) -> None:
    """Read from a store that belongs to somebody else, reuse, then try to write."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)

    def never(run_dir: Path) -> Made[GateManifest]:
        raise AssertionError("the action was computed again")

    _say(execute(Plan(ACTION, GateManifest, never), store, Runtime.quiet()).digest)
    _expect_refusal(store, {"new": b"new"})


def swarm(store: Store, folder: str, processes: str, seed: str, mode: str, *arguments: str) -> None:
    """Run one mode in several processes at once, each printing to its own file in a folder.

    They are forked, because starting an interpreter costs more than all they do. With a seed they are killed at random
    moments, once each has printed two lines. The exit statuses are printed.
    """
    children, files = [], [Path(folder) / str(worker) for worker in range(int(processes))]
    for worker, path in enumerate(files):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
                globals()[mode](store, *(text.replace("WORKER", str(worker)) for text in arguments))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    if seed != "none":
        while any(not path.exists() or path.read_bytes().count(b"\n") < 2 for path in files):
            time.sleep(0.005)
        chance = random.Random(int(seed))
        for child in chance.sample(children, len(children)):
            time.sleep(chance.uniform(0.0, 0.1))
            os.kill(child, signal.SIGKILL)
    _say(*(os.waitpid(child, 0)[1] for child in children))


def _expect_refusal(store: Store, files: FileContents) -> None:
    try:
        put_gate(store, 0.9, files, names=("new",))
    except EcoError as error:
        _say(type(error).__name__, error.exit_code, error)
    else:
        _say("not refused")


if __name__ == "__main__":
    mode, root, *rest = sys.argv[1:]
    globals()[mode](Store(root), *rest)
