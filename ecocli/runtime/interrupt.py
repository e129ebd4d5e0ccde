"""A request to stop, set by a signal and honoured by the loop that can save its state."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


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
        self._former: dict[signal.Signals, object] = {}

    def request(self, reason: str = "request") -> None:
        """Ask for a stop; the first reason is kept."""
        if not self.requested:
            self.requested = True
            self.reason = reason
            if self._on_request is not None:
                self._on_request(reason)

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._former:
            number, handler = self._former.popitem()
            # None stands for a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._sigint_seen:
                raise KeyboardInterrupt
            self._sigint_seen = True
        self.request(signal.Signals(number).name)
