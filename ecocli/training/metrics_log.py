"""The metrics of a run as JSON lines: one line per window of steps, the same bytes for the same run.

A line holds ``step`` (steps done), ``lr``, ``loss``, ``grad_norm`` and, under ``exits``, for every exit depth trained
in the window its loss (all decoder layers, without alpha) and the three unweighted terms of its final prediction. All
are means over the window; ``grad_norm`` is one over those steps that changed the weights, and missing where float16
left out all of them. No times: those differ from run to run.

Where the exits are evaluated in between, each evaluation is a line of its own: ``step`` and ``evaluation``, which holds
``split``, ``images`` (how many) and, under ``exits``, for every exit depth ``pq``, ``sq``, ``rq``, ``pq_things`` and
``pq_stuff``, of a detector ``ap`` and its parts, as fractions; one that is not defined on these images is left out.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ecocli.runtime.files import storage_errors, write_bytes


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
    """The metrics of a run, kept here; the file ``metrics.jsonl`` shows them meanwhile.

    What becomes content is ``text``, never the file: that one may be damaged, or written by a second process where
    locks do not work.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is written yet."""
        self.path = path
        self.text = ""

    def resume(self, text: str) -> None:
        """Start with the lines that the saved state holds; what a killed run wrote after it is repeated."""
        self.text = text
        write_bytes(self.path, text.encode(), self.path.parent)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All lines."""
        return parse_metrics(self.text)

    def holds_evaluation(self, step: int) -> bool:
        """Whether the exits were evaluated after this step."""
        return any(line["step"] == step for line in evaluation_lines(self.lines))

    def write(self, line: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            UsageError: The file system refuses.
        """
        self.text += encode_line(line)
        with storage_errors(self.path), self.path.open("a") as file:
            file.write(encode_line(line))


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """Read the lines of a metrics file."""
    return [json.loads(line) for line in text.splitlines()]


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


def encode_line(line: dict[str, Any]) -> str:
    """Return a line as the file holds it."""
    return json.dumps(line, sort_keys=True) + "\n"
