"""Threads that work ahead of the main one, and are left behind where one of them hangs.

An executor of ``concurrent.futures`` waits for its threads when it ends, and again when Python does: one read that
stalls, of a disk that is gone, would hold the process for ever.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

_PATIENCE_S = 5.0
ResultT = TypeVar("ResultT")


class Background:
    """Context manager with some threads that make calls in the order given.

    At its end calls that have not begun are dropped, and those that have are waited for, but not for long.
    """

    def __init__(self, threads: int) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def submit(self, call: Callable[..., ResultT], *arguments: object) -> Future[ResultT]:
        """Have a call made; its result or error is the future's."""
        future: Future[ResultT] = Future()
        self._calls.put((future, lambda: call(*arguments)))
        return future

    def __enter__(self) -> Background:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                if (item := self._calls.get_nowait()) is not None:
                    item[0].cancel()
        for _ in self._threads:
            self._calls.put(None)
        deadline = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            # Or the last result would stay until the next call.
            del item, future, call
