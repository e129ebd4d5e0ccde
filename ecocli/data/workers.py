"""Helper processes for work on many files: drawing scenes, checking images."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

from ecocli.errors import UsageError

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def usable_cores() -> int:
    """Count the CPU cores this process may use, which can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _start(initializer: Callable[..., None] | None, *initargs: Any) -> None:
    # Terminals and launchers signal whole process groups; the main process alone decides when its helpers stop.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # A process that is killed cannot end its helpers, and they would wait for it for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def worker_pool(
    processes: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Run a pool of fresh processes; forked children of a process that runs torch's threads can hang.

    An error in the block ends them at once. Waiting for what they work on is no way out: a second interrupt then breaks
    off the waiting itself, and the end of Python waits for processes that nobody tells to end.

    Raises:
        UsageError: The machine grants none, since their locks lie in /dev/shm, or kills one.
    """
    # Python's own helper, which cleans up after the pool, inherits the mask: SIGUSR1 would end it.
    with _signals_held_back():
        try:
            pool = ProcessPoolExecutor(
                processes, get_context("spawn"), initializer=_start, initargs=(initializer, *initargs)
            )
        except OSError as error:
            raise UsageError(
                f"Helper processes cannot be started ({error.strerror or error}): they need shared memory in /dev/shm. "
                "Make it writable or larger (docker run --shm-size=1g)."
            ) from error
    try:
        yield pool
        pool.shutdown()
    except BaseException as error:
        try:
            _end(pool)
        except BaseException:  # a second interrupt, on its way before signals were held back
            _end(pool)
            raise
        if isinstance(error, BrokenProcessPool):
            raise UsageError(
                "A helper process was ended from outside, as by a machine whose memory is short. Use a larger machine, "
                "or fewer cores (taskset)."
            ) from error
        raise


def _end(pool: ProcessPoolExecutor) -> None:
    with _signals_held_back():
        workers = list((pool._processes or {}).values())
        # What has not begun is dropped first: of a pool that breaks, Python would print it as an error of its own.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
