"""Speed of panoptic quality on one 640 x 480 image with 20 segments, against the official algorithm.

Run from the repository: ``PYTHONPATH=.:tests python tests/benchmarks/bench_panoptic_quality.py``. The
yardstick is the plain reference of the tests, which has the official evaluator's steps and data structures,
on arrays in memory for both.
"""

import time
from collections.abc import Callable

import numpy as np
from helpers_panoptic import random_scene, reference_counts

from ecocli.metrics.panoptic_quality import count_panoptic_image

CATEGORIES = tuple(range(1, 134))


def best_ms(work: Callable[[], object], repeats: int = 50) -> float:
    """Return the fastest of several calls, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def main() -> None:
    """Measure both and print one line."""
    scene = random_scene(np.random.default_rng(0), 480, 640, 20, CATEGORIES)
    ours = best_ms(lambda: count_panoptic_image(*scene, CATEGORIES))
    official = best_ms(lambda: reference_counts(*scene, CATEGORIES))
    print(f"ours {ours:.2f} ms, official algorithm {official:.2f} ms per image: {official / ours:.1f} x faster")


if __name__ == "__main__":
    main()
