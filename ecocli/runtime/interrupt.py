"""A request to stop, set by a signal: honoured by the loop that can save its state, and at once where nothing is lost.

``StopFlag.interruptible`` marks work that is dropped as a whole, such as one picture: there a signal leaves at once, by
an exception. ``StopFlag.orderly`` marks a loop that looks at the flag itself. The inner one of the two decides.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopNowError(BaseException):
    """Leaves interruptible work. No ``Exception``: nobody who handles faulty files may take it for one."""


class StopFlag:
    """Context manager in which SIGTERM, SIGUSR1 and SIGINT ask for an orderly stop.

    A second SIGINT raises ``KeyboardInterrupt``: whoever presses Ctrl-C twice does not want to wait. Leaving
    the context restores the former handlers. Outside the main thread, where Python allows no handlers, only
    ``request`` sets the flag.

    Attributes:
        requested: Whether a stop was asked for. In a run of several processes let ``World.any`` decide.
        reason: Name of the first signal, or what ``request`` was told; empty before.
    """

    def __init__(self, on_request: Callable[[str], None] | None = None) -> None:
        """Create a flag that is not set.

        Args:
            on_request: Called once with the reason, inside the signal handler: it must be short and must not
                take locks.
        """
        self.requested = False
        self.reason = ""
        self._on_request = on_request
        self._sigint_seen = False
        self._at_once = False
        self._former: dict[signal.Signals, object] = {}

    def request(self, reason: str = "request") -> None:
        """Ask for a stop; the first reason is kept."""
        if not self.requested:
            self.requested = True
            self.reason = reason
            if self._on_request is not None:
                self._on_request(reason)

    def check(self) -> None:
        """Leave interruptible work if a stop is asked for.

        Raises:
            StopNowError: It is.
        """
        if self._at_once and self.requested:
            raise StopNowError(self.reason)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a stop leave this block at once.

        Raises:
            StopNowError: A stop is asked for, now or before.
        """
        with self._leaving(at_once=True):
            self.check()
            yield

    @contextmanager
    def orderly(self) -> Iterator[None]:
        """Let a stop only set the flag within this block."""
        with self._leaving(at_once=False):
            yield

    @contextmanager
    def _leaving(self, at_once: bool) -> Iterator[None]:
        before, self._at_once = self._at_once, at_once
        try:
            yield
        finally:
            self._at_once = before

    def __enter__(self) -> StopFlag:
        _active.append(self)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)
        while self._former:
            number, handler = self._former.popitem()
            # None stands for a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._sigint_seen:
                raise KeyboardInterrupt
            self._sigint_seen = True
        is_first = not self.requested
        self.request(signal.Signals(number).name)
        if is_first:
            self.check()


_active: list[StopFlag] = []


def check_interrupted() -> None:
    """Leave interruptible work if a stop is asked for; for long computing, on any thread.

    Raises:
        StopNowError: It is.
    """
    for flag in _active:
        flag.check()
