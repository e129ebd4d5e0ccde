"""Helper processes for work on many files: drawing scenes, checking images."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def usable_cores() -> int:
    """Count the CPU cores this process may use, which can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def make_pool(
    processes: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Make a pool of fresh processes; forked children of a process that runs torch's threads can hang."""
    return ProcessPoolExecutor(processes, get_context("spawn"), initializer=initializer, initargs=initargs)
