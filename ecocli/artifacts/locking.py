"""One lock per action, so that two jobs do not compute the same thing twice.

A lock only ever saves work. Some network file systems grant it to everyone, some refuse it: then work is done twice and
the store stays right, because writing does not rely on locks.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ecocli.errors import InterruptedRunError

_POLL_S = 0.02
_WAIT_S = 0.5
_log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, what: str, stop: Callable[[], bool] | None = None) -> Iterator[bool]:
    """Hold a lock while the block runs, waiting for another process that holds it.

    Args:
        path: The lock file; its folder exists.
        what: What the other process would be doing, for the log.
        stop: Asked while waiting; true ends the wait.

    Yields:
        Whether the lock is held; false where the file system has no locks.

    Raises:
        InterruptedRunError: `stop` asked for it.
    """
    lock = FileLock(path, timeout=0, poll_interval=_POLL_S)
    held = _acquire(lock, path, what, stop)
    try:
        yield held
    finally:
        if held:
            with suppress(OSError):
                lock.release()


def _acquire(lock: FileLock, path: Path, what: str, stop: Callable[[], bool] | None) -> bool:
    announced = False
    while True:
        try:
            lock.acquire(timeout=_WAIT_S if announced else 0, poll_interval=_POLL_S)
            return True
        except Timeout:
            if not announced:
                _log.info("Another process is busy with %s; waiting for it (lock file %s).", what, path)
                announced = True
        except (OSError, NotImplementedError) as error:
            _log.warning("No lock at %s (%s): going on without, work may be done twice.", path, error)
            return False
        if stop is not None and stop():
            raise InterruptedRunError(
                f"Stopped by a signal while waiting for another process that is busy with {what}. The same command "
                "waits again, or uses what the other process has made by then."
            )
