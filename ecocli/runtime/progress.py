"""Progress on stderr: a bar on a terminal, otherwise one plain line every few seconds.

A log file of a long run stays short and can be read with ``tail``; each line stands alone and holds count,
rate, remaining time and the latest values.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ecocli.runtime.formats import plain_text
from ecocli.runtime.streams import stderr_file, write_stderr

if TYPE_CHECKING:
    import rich.progress


def format_duration(seconds: float) -> str:
    """Write a duration as ``h:mm:ss``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class ProgressTask:
    """One piece of work that is being counted."""

    def __init__(
        self,
        name: str,
        total: int | None,
        unit: str,
        completed: int,
        clock: Callable[[], float],
        show: Callable[[ProgressTask], None],
    ) -> None:
        """Create a task; ``Progress.task`` does this."""
        self.name = name
        self.total = total
        self.unit = unit
        self.completed = completed
        self.values: dict[str, float] = {}
        self._clock = clock
        self._show = show
        self._start = clock()
        self._resumed_at = completed

    @property
    def elapsed_s(self) -> float:
        """Time since the task began, in seconds."""
        return self._clock() - self._start

    @property
    def rate(self) -> float:
        """Units per second, not counting what an earlier run had done; 0 before the first."""
        elapsed = self.elapsed_s
        return (self.completed - self._resumed_at) / elapsed if elapsed > 0 else 0.0

    def advance(self, count: int = 1, **values: float) -> None:
        """Count finished units and keep the latest values, such as ``loss``, for display."""
        self.completed += count
        self.values.update(values)
        self._show(self)

    def describe_values(self) -> str:
        """Write the latest values as ``loss 0.3 lr 0.0001``."""
        return " ".join(f"{name} {value:.4g}" for name, value in self.values.items())

    def describe(self) -> str:
        """Write the state as one line."""
        if self.total is not None:
            percent = 100 * self.completed // self.total if self.total else 100
            parts = [f"{self.name} {self.completed}/{self.total} {self.unit} {percent}%"]
        else:
            parts = [f"{self.name} {self.completed} {self.unit}"]
        rate = self.rate
        if rate > 0:
            parts.append(f"{rate:.3g} {self.unit}/s")
        if self.total is not None and self.completed < self.total and rate > 0:
            parts.append(f"{format_duration((self.total - self.completed) / rate)} left")
        else:
            parts.append(f"{format_duration(self.elapsed_s)} elapsed")
        if self.values:
            parts.append(self.describe_values())
        return "  ".join(parts)


class Progress:
    """Shows tasks of the main process; silent on all others."""

    def __init__(
        self,
        enabled: bool = True,
        *,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a display.

        Args:
            enabled: False for silence, as on every rank but 0.
            interval_s: Least time between two plain lines of one task, in seconds.
            clock: Counts seconds.
        """
        self._enabled = enabled
        self._interval_s = interval_s
        self._clock = clock
        self._bars: rich.progress.Progress | None = None

    @contextmanager
    def task(
        self, name: str, total: int | None = None, unit: str = "step", completed: int = 0
    ) -> Iterator[ProgressTask]:
        """Show a task while the context lasts. Tasks may be nested.

        Args:
            name: What is done, such as ``training``.
            total: Number of units, or None where nobody knows.
            completed: Units done by an earlier run.
        """
        if not self._enabled:
            yield ProgressTask(name, total, unit, completed, self._clock, lambda task: None)
        elif sys.stderr.isatty():
            with self._bar_task(name, total, unit, completed) as task:
                yield task
        else:
            with self._line_task(name, total, unit, completed) as task:
                yield task

    @contextmanager
    def _line_task(self, name: str, total: int | None, unit: str, completed: int) -> Iterator[ProgressTask]:
        last_s = self._clock()

        def write(task: ProgressTask) -> None:
            write_stderr(plain_text(task.describe()) + "\n")

        def show(task: ProgressTask) -> None:
            nonlocal last_s
            now = self._clock()
            # The last unit is left to the closing line.
            if now - last_s >= self._interval_s and task.completed != task.total:
                last_s = now
                write(task)

        task = ProgressTask(name, total, unit, completed, self._clock, show)
        try:
            yield task
        finally:
            write(task)

    @contextmanager
    def _bar_task(self, name: str, total: int | None, unit: str, completed: int) -> Iterator[ProgressTask]:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        outermost = self._bars is None
        if self._bars is None:
            self._bars = Bars(
                # Names of data sets are no markup.
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.fields[total_text]} {task.fields[state]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}", markup=False),
                console=Console(file=stderr_file()),
                # stdout carries the result and must never be drawn into the display.
                redirect_stdout=False,
            )
            self._bars.start()
        bars = self._bars
        total_text = "?" if total is None else str(total)
        number = bars.add_task(
            plain_text(name), total=total, completed=completed, total_text=total_text, state=unit, values=""
        )

        def show(task: ProgressTask) -> None:
            bars.update(
                number,
                completed=task.completed,
                state=f"{task.unit} {task.rate:.3g}/s",
                values=task.describe_values(),
            )

        try:
            yield ProgressTask(name, total, unit, completed, self._clock, show)
        finally:
            if outermost:
                bars.stop()
                self._bars = None
