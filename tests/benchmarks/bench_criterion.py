"""Speed of the losses of one training step of the built-in recipe: 5 exits x 4 predictions, 8 images of 128 x 128.

Run from the repository: ``PYTHONPATH=. OMP_NUM_THREADS=1 python tests/benchmarks/bench_criterion.py``. Best of ten
calls, forward (matching included) and backward.
"""

import time

import torch

from ecocli.losses.criterion import Criterion
from ecocli.losses.points import SeededPoints
from ecocli.losses.targets import pack_targets

PREDICTIONS, IMAGES, QUERIES, CLASSES, POINTS = 20, 8, 24, 13, 256


def main() -> None:
    """Measure and print one line."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(3, 10, (IMAGES,), generator=generator).tolist()
    targets = pack_targets(
        [torch.randint(0, CLASSES, (count,), generator=generator) for count in counts],
        [torch.rand(count, 128, 128, generator=generator) > 0.7 for count in counts],
        (128, 128),
    )
    logits = torch.randn(PREDICTIONS, IMAGES, QUERIES, CLASSES + 1, generator=generator).requires_grad_()
    masks = (2 * torch.randn(PREDICTIONS, IMAGES, QUERIES, 32, 32, generator=generator)).requires_grad_()
    criterion = Criterion(CLASSES, num_points=POINTS)
    times = []
    for step in range(10):
        start = time.perf_counter()
        points = SeededPoints(range(step * IMAGES, (step + 1) * IMAGES))
        loss = criterion(logits, masks, targets, torch.ones(PREDICTIONS), points).total
        middle = time.perf_counter()
        torch.autograd.grad(loss, (logits, masks))
        times.append((middle - start, time.perf_counter() - middle))
    forward, backward = (min(column) * 1000 for column in zip(*times, strict=True))
    print(f"{sum(counts)} objects: forward {forward:.1f} ms, backward {backward:.1f} ms")


if __name__ == "__main__":
    main()
