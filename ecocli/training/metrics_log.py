"""The metrics of a run as JSON lines: one line per window of steps, the same bytes for the same run.

A line holds ``step`` (steps done), ``lr``, ``loss``, ``grad_norm`` and, under ``exits``, for every exit depth trained
in the window its Mask2Former loss (all decoder layers, without alpha) and the three unweighted terms of its final
prediction. All are means over the window; ``grad_norm`` is one over those steps that changed the weights, and missing
where float16 left out all of them. No times: those differ from run to run.

Where the exits are evaluated in between, each evaluation is a line of its own: ``step`` and ``evaluation``, which holds
``split``, ``images`` (how many) and, under ``exits``, for every exit depth ``pq``, ``sq``, ``rq``, ``pq_things`` and
``pq_stuff``, as fractions; one that is not defined on these images is left out.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class MetricsWindow:
    """Sums over the steps since the last line."""

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        """Start empty, or from what ``state`` returned.

        Args:
            sums: Sum and count of each value, by name.
        """
        self._sums = {} if sums is None else {name: list(pair) for name, pair in sums.items()}

    def add(self, values: Mapping[str, float | None]) -> None:
        """Take in the values of one step; None is one that this step does not have."""
        for name, value in values.items():
            if value is None:
                continue
            pair = self._sums.setdefault(name, [0.0, 0.0])
            pair[0] += value
            pair[1] += 1.0

    def state(self) -> dict[str, list[float]]:
        """Return the sums, for saving."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def take_means(self) -> dict[str, float]:
        """Return the mean of each value and start anew."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums.clear()
        return means


class MetricsLog:
    """The file ``metrics.jsonl`` of a run."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is written yet."""
        self.path = path

    def resume(self, step: int) -> None:
        """Keep the lines up to a step; what a killed run wrote after its last saved state is repeated."""
        kept = [line for line in read_metrics(self.path) if line["step"] <= step] if self.path.exists() else []
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text("".join(_encode(line) for line in kept))
        unfinished.replace(self.path)

    def holds_evaluation(self, step: int) -> bool:
        """Whether the exits were evaluated after this step."""
        return any(line["step"] == step for line in evaluation_lines(read_metrics(self.path)))

    def write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with self.path.open("a") as file:
            file.write(_encode(line))

    def sync(self) -> None:
        """Wait until the lines are on the disk; to be called before the state of the same step is saved."""
        with self.path.open("a") as file:
            os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a metrics file; a last one that a kill cut off is left out."""
    lines = []
    for text in path.read_text().splitlines(keepends=True):
        if text.endswith("\n"):
            lines.append(json.loads(text))
    return lines


def loss_lines(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose the lines that hold the means of a window of steps."""
    return [line for line in lines if "exits" in line]


def evaluation_lines(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose the lines that hold an evaluation of the exits."""
    return [line for line in lines if "evaluation" in line]


def nest_values(step: int, values: dict[str, float]) -> dict[str, Any]:
    """Make a line of the log from values named ``loss`` or ``exits.<depth>.<term>``."""
    line: dict[str, Any] = {"step": step}
    for name, value in values.items():
        section = line
        *parents, last = name.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return line


def _encode(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"
