"""Generated count tables, qualities and features for the tests of Steps B and C."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from helpers_counts import dense_table
from helpers_store import derived_manifest

from ecocli.artifacts.derived_table import DerivedRecord, build_table
from ecocli.artifacts.store import Store
from ecocli.artifacts.tables import write_table
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.panoptic_quality import ImageCounts


def random_counts(seed: int, images: int, exits: int, classes: int) -> tuple[np.ndarray, ...]:
    """Draw dense IoU sums, TP, FP and FN [N, E, K]; about half of all cells are empty."""
    rng = np.random.default_rng(seed)
    shape = (images, exits, classes)
    occupied = rng.random(shape) < 0.5
    tp, fp, fn = (rng.integers(0, 4, shape) * occupied for _ in range(3))
    iou_sum = tp * rng.uniform(0.5, 1.0, shape)
    return iou_sum, tp, fp, fn


def random_table(seed: int, images: int, exits: int, classes: int) -> CountTable:
    """Draw a count table."""
    return dense_table(*random_counts(seed, images, exits, classes))


def plain_pq(iou_sum: np.ndarray, tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> float:
    """Average PQ over the classes of summed counts [K], one class at a time in plain Python."""
    values = [
        float(i) / (float(t) + 0.5 * float(p) + 0.5 * float(n))
        for i, t, p, n in zip(iou_sum, tp, fp, fn, strict=True)
        if t + p + n > 0
    ]
    return sum(values) / len(values) if values else float("nan")


def plain_assignment_pq(counts: tuple[np.ndarray, ...], assignment: np.ndarray) -> float:
    """Sum the counts of the chosen exits image by image, then average over classes."""
    sums = [sum(array[n, e] for n, e in enumerate(assignment)) for array in counts]
    return plain_pq(*sums)


def scene_quality(rng: np.random.Generator, latent: np.ndarray, exits: int, noise: float) -> np.ndarray:
    """Draw quality [N, E]: the first latent number says how much an image gains from depth.

    About half of the images gain nothing, so a gate that sees the features has something to save.
    """
    gain = np.clip(latent[:, :1], 0.0, None) * 0.04
    depth = np.arange(exits)[None]
    quality = (
        0.7 + 0.05 * latent[:, 1:2] + gain * (depth - (exits - 1)) + noise * rng.standard_normal((len(latent), exits))
    )
    return np.clip(quality, 0.51, 1.0)


def derived_records(
    seed: int, images: int, *, exit_depths: tuple[int, ...] = (2, 3, 4), features: int = 8, noise: float = 0.004
) -> list[DerivedRecord]:
    """Draw records whose features tell, linearly and with some noise, how much an image gains from depth.

    Each image holds one segment, found at every exit; so its PQ is the IoU, and every sum can be checked.
    """
    weights = np.random.default_rng(99).standard_normal((4, features))
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((images, 4))
    raw = (latent @ weights + 0.1 * rng.standard_normal((images, features))).astype(np.float16)
    quality = scene_quality(rng, latent, len(exit_depths), noise)
    records = []
    for n in range(images):
        counts = []
        for e in range(len(exit_depths)):
            one = np.zeros(3, np.int64)
            one[n % 3] = 1
            counts.append(ImageCounts(one * quality[n, e], one, np.zeros(3, np.int64), np.zeros(3, np.int64)))
        records.append(
            DerivedRecord(
                image_id=str(n),
                file_name=f"{n}.png",
                seen=None,
                size=(64, 64),
                padded_size=(64, 64),
                counts=tuple(counts),
                features={"res5": raw[n], "projected": raw[n, : features // 2], "tokens": raw[n]},
                gflops=tuple(10.0 + 2.0 * depth for depth in exit_depths),
                encoder_gflops=tuple(1.0 + 2.0 * depth for depth in exit_depths),
            )
        )
    return records


def put_derived(
    store: Store,
    folder: Path,
    splits: Mapping[str, Sequence[DerivedRecord]],
    *,
    exit_depths: tuple[int, ...] = (2, 3, 4),
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
    parent: str = "sha256:" + "1" * 64,
    feature_sizes: Mapping[str, int] | None = None,
) -> str:
    """Store derived tables and return their digest.

    Args:
        store: Where to.
        folder: For the files.
        splits: Name to records.
        exit_depths: What the manifest says.
        change: Applied to every table before it is written, to damage it.
        parent: Digest of the parent that the manifest names.
        feature_sizes: Features that the manifest names; those of ``derived_records`` by default.
    """
    files = {}
    for name, records in splits.items():
        path = folder / f"{name}.parquet"
        write_table(path, change(build_table(records)))
        files[path.name] = path
    manifest = derived_manifest(
        parent,
        exit_depths,
        feature_sizes or {"res5": 8, "projected": 4, "tokens": 8},
        {name: len(records) for name, records in splits.items()},
    )
    return store.put(manifest, files, names=["derived"]).digest
