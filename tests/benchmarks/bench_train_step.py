"""Time of a training step: all five exits, and one drawn exit, against a plain Mask2Former step.

Run from the repository: ``PYTHONPATH=tests python tests/benchmarks/bench_train_step.py [--size 512] [--batch 1]
[--steps 6] [--rounds 2] [--arch NAME]``. The real training loop (batching, losses, backward pass, clipping, AdamW) on
images drawn in memory with a dozen objects each; the modes take turns, and the first and the last step of a run, which
saves its state, do not count. Wanted: all exits at most 2.4 times the plain step (their multiply-adds alone are 2.1
times), a drawn exit at most 1.0 times in the mean over the draws.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from ecocli.config.loading import resolve_config
from ecocli.config.recipes import train_parent_preset
from ecocli.config.train_parent import TrainParentConfig
from ecocli.data.training import TrainingSample
from ecocli.model.builders import build_model
from ecocli.runtime.context import Runtime
from ecocli.runtime.memory import keep_freed_memory
from ecocli.runtime.progress import Progress
from ecocli.training.loop import Trainer

DEPTHS = (2, 3, 4, 5, 6)
PLAIN, ALL, DRAWN = "plain Mask2Former", "all five exits", "one drawn exit"
MODES: dict[str, dict[str, Any]] = {
    PLAIN: {"exit_depths": [6], "exits_per_step": "all"},
    ALL: {"exit_depths": list(DEPTHS), "exits_per_step": "all"},
    DRAWN: {"exit_depths": list(DEPTHS), "exits_per_step": 1},
}


class Scenes:
    """Noise with twelve rectangles, each an object."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return 16

    def __getitem__(self, key: tuple[int, int]) -> TrainingSample:
        generator = torch.Generator().manual_seed(key[1])
        size, objects = self._size, 12
        masks = torch.zeros(objects, size, size, dtype=torch.bool)
        for mask in masks:
            top, left = torch.randint(0, size * 3 // 4, (2,), generator=generator).tolist()
            mask[top : top + size // 4, left : left + size // 4] = True
        image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
        return TrainingSample(image, torch.randint(0, 133, (objects,), generator=generator), masks, str(key[1]))


class Stopwatch:
    """Stands in for the progress display and notes when each step ends, and which exits it trained."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, tuple[int, ...]]] = []

    @contextmanager
    def task(self, *_arguments: object, **_options: object) -> Iterator["Stopwatch"]:
        """Start."""
        self.ends.append((time.perf_counter(), ()))
        yield self

    def advance(self, _count: int, **values: float) -> None:
        """A step has ended."""
        depths = tuple(sorted(int(name[4:]) for name in values if name.startswith("exit")))
        self.ends.append((time.perf_counter(), depths))


def run(mode: str, arch: str, size: int, batch: int, steps: int, seed: int) -> dict[tuple[int, ...], list[float]]:
    """Train a few steps and return the seconds of each by the exits it trained."""
    settings = {
        "dataset": {"name": "coco"},
        "architecture": {"name": arch},
        "batch_size": batch,
        "steps": steps,
        "seed": seed,
        "precision": "float32",
        "evaluation": {"every": 0},
        **MODES[mode],
    }
    config = resolve_config(TrainParentConfig, train_parent_preset(settings), settings)
    config = config.model_copy(update={"execution": config.execution.model_copy(update={"workers": 0})})
    torch.manual_seed(0)
    watch = Stopwatch()
    runtime = replace(Runtime.quiet(), progress=cast(Progress, watch))
    with tempfile.TemporaryDirectory() as folder:
        Trainer(config, build_model(config.architecture), Scenes(size), runtime, Path(folder)).run()
    taken = defaultdict(list)
    pairs = list(zip(watch.ends, watch.ends[1:], strict=False))
    for (start, _), (end, depths) in pairs[1:-1]:
        taken[depths].append(end - start)
    return taken


def main() -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="m2f-r50")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does
    shape = (arguments.arch, arguments.size, arguments.batch)
    taken: dict[str, dict[tuple[int, ...], list[float]]] = {mode: defaultdict(list) for mode in MODES}
    for turn in range(arguments.rounds):
        for mode in MODES:
            # A drawn exit needs more steps: every exit should come up.
            steps = arguments.steps * (2 if mode == DRAWN else 1)
            for depths, seconds in run(mode, *shape, steps, seed=turn).items():
                taken[mode][depths] += seconds
    images = f"{arguments.batch} x {arguments.size} x {arguments.size}"
    print(f"{arguments.arch}, {images}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    medians = {mode: {d: statistics.median(s) for d, s in found.items()} for mode, found in taken.items()}
    # Every exit is drawn equally often in the long run.
    means = {mode: statistics.mean(found.values()) for mode, found in medians.items()}
    for mode, mean in means.items():
        wanted = {PLAIN: "", ALL: " (wanted: at most 2.4)", DRAWN: " (wanted: at most 1.0)"}[mode]
        print(f"{mode}: {mean:.2f} s per step, {mean / means[PLAIN]:.2f} of the plain step{wanted}")
    for depths, seconds in sorted(medians[DRAWN].items()):
        print(f"  exit {depths[0]} alone: {seconds:.2f} s, {seconds / means[PLAIN]:.2f}")


if __name__ == "__main__":
    main()
