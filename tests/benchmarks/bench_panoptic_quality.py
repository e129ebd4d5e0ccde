"""Speed of panoptic quality on one 640 x 480 image with 20 segments, against the official algorithm.

Run from the repository: ``PYTHONPATH=.:tests python tests/benchmarks/bench_panoptic_quality.py``. The yardstick is
the plain reference of the tests, which has the official evaluator's steps and data structures, on arrays in memory for
both. Where panopticapi itself is installed (or on the PYTHONPATH), it is measured too: on RGB arrays in memory, as its
code starts from them, and with the reading of both PNG files.
"""

import contextlib
import importlib.util
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers_panoptic import Pred, Truth, random_scene, reference_counts

from ecocli.data.panoptic import decode_id_map, encode_id_map
from ecocli.data.pictures import read_picture
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


def measure_panopticapi(
    pred_map: np.ndarray, pred: list[Pred], true_map: np.ndarray, truth: list[Truth], ours_ms: float
) -> None:
    """Measure the real package on one image, once from arrays and once from files, and print a line for each."""
    from panopticapi import evaluation

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / "true.png", folder / "pred.png"]
        for path, ids in zip(files, (true_map, pred_map), strict=True):
            encode_id_map(ids).save(path)
        true_entry: dict[str, Any] = {"image_id": 1, "file_name": "true.png"}
        true_entry["segments_info"] = [
            {"id": s.id, "category_id": s.category_id, "iscrowd": int(s.is_crowd), "area": s.area} for s in truth
        ]
        pred_entry: dict[str, Any] = {"image_id": 1, "file_name": "pred.png"}
        pred_entry["segments_info"] = [{"id": s.id, "category_id": s.category_id} for s in pred]
        categories = {category: {"id": category, "isthing": 1} for category in CATEGORIES}

        def official() -> object:
            with contextlib.redirect_stdout(io.StringIO()):
                pair = (true_entry, pred_entry)
                return evaluation.pq_compute_single_core(0, [pair], str(folder), str(folder), categories)

        def ours() -> object:
            maps = [decode_id_map(read_picture(path, "panoptic PNG")) for path in files]
            return count_panoptic_image(maps[1], pred, maps[0], truth, CATEGORIES)

        with_files, ours_with_files = best_ms(official), best_ms(ours)
        arrays = {str(path): np.asarray(read_picture(path, "panoptic PNG")) for path in files}
        opener, evaluation.Image.open = evaluation.Image.open, arrays.__getitem__
        try:
            in_memory = best_ms(official)
        finally:
            evaluation.Image.open = opener
    print(f"panopticapi on arrays {in_memory:.2f} ms per image: ours is {in_memory / ours_ms:.1f} x faster")
    print(
        f"with both PNG files: ours {ours_with_files:.2f} ms, panopticapi {with_files:.2f} ms per image: "
        f"{with_files / ours_with_files:.1f} x faster"
    )


def main() -> None:
    """Measure both and print one line; with panopticapi two more."""
    scene = random_scene(np.random.default_rng(0), 480, 640, 20, CATEGORIES)
    ours = best_ms(lambda: count_panoptic_image(*scene, CATEGORIES))
    official = best_ms(lambda: reference_counts(*scene, CATEGORIES))
    print(f"ours {ours:.2f} ms, official algorithm {official:.2f} ms per image: {official / ours:.1f} x faster")
    if importlib.util.find_spec("panopticapi") is not None:
        measure_panopticapi(*scene, ours)


if __name__ == "__main__":
    main()
