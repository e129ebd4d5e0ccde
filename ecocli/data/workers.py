"""Helper processes for work on many files: drawing scenes, checking images."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any

from ecocli.errors import UsageError


def usable_cores() -> int:
    """Count the CPU cores this process may use, which can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _start(initializer: Callable[..., None] | None, *initargs: Any) -> None:
    # A process that is killed cannot end its helpers, and they would wait for it for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def make_pool(
    processes: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Make a pool of fresh processes; forked children of a process that runs torch's threads can hang.

    Raises:
        UsageError: The machine grants none: their locks lie in /dev/shm.
    """
    try:
        return ProcessPoolExecutor(
            processes, get_context("spawn"), initializer=_start, initargs=(initializer, *initargs)
        )
    except OSError as error:
        raise UsageError(
            f"Helper processes cannot be started ({error.strerror or error}): they need shared memory in /dev/shm. "
            "Make it writable or larger (docker run --shm-size=1g)."
        ) from error
