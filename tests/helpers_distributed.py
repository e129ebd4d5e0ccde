"""Runs a script in several processes on this machine, with the environment that torchrun would give them."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessResult:
    """What one process left behind."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_processes(
    arguments: list[str],
    world_size: int = 2,
    *,
    timeout_s: float = 60.0,
    extra_environment: dict[str, str] | None = None,
) -> list[ProcessResult]:
    """Run ``python ARGUMENTS`` once per rank and wait for all of them.

    Args:
        arguments: After the interpreter, such as ``["-m", "ecocli", "derive"]`` or ``["-c", script]``.
        world_size: Number of processes.
        timeout_s: All are killed after so many seconds and the wait fails.
        extra_environment: Added to the environment of every process.

    Returns:
        One result per rank, in rank order.
    """
    port = free_port()
    processes = []
    for rank in range(world_size):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **(extra_environment or {}),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout_s)
            results.append(ProcessResult(process.returncode, out, err))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return results
