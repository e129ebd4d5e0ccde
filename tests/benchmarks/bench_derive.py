"""Cost of deriving all five exits, panoptic quality included, in units of one full-depth inference pass.

Run from the repository: ``PYTHONPATH=.:tests python tests/benchmarks/bench_derive.py [height width images]``. Wanted:
at most 2.5 (five separate passes cost 4.4, the multiply-adds alone are 2.1). A pass is the network at its deepest exit
with panoptic post-processing and scoring, through the same code. Mask2Former with a ResNet-50 and random weights, its
class scores spread and the threshold set so that three queries of ten take part, as with a trained one.
"""

import os
import sys
import time

import numpy as np
import torch

from ecocli.config.architecture import ARCHITECTURES
from ecocli.data.batching import make_batch
from ecocli.data.panoptic import Segment
from ecocli.inference.postprocess import PanopticRule
from ecocli.inference.predictor import ImagePrediction
from ecocli.model.builders import build_model
from ecocli.model.mask2former import Mask2Former
from ecocli.profiling.gflops import count_gflops
from ecocli.runtime.memory import keep_freed_memory
from ecocli.scoring.batches import LabelledBatch, TruePanoptic
from ecocli.scoring.score_exits import ScoredPrediction, score_prediction
from ecocli.scoring.score_stream import stream_rows

BATCH = 2


def scenes(height: int, width: int, images: int, model: Mask2Former) -> list[LabelledBatch]:
    """Draw smooth noise and a ground truth of blocks."""
    rng = np.random.default_rng(0)
    ids = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((-(-height // 3), -(-width // 4)), np.int64))
    ids = np.ascontiguousarray(ids[:height, :width].astype(np.int32))
    segments = [Segment(i, i, False, int((ids == i).sum()), (0, 0, 1, 1)) for i in range(1, 13)]
    batches = []
    for first in range(0, images, BATCH):
        coarse = rng.integers(0, 256, (BATCH, height // 16 + 1, width // 16 + 1, 3), np.uint8)
        pictures = [np.repeat(np.repeat(one, 16, 0), 16, 1)[:height, :width] for one in coarse]
        names = [str(first + place) for place in range(BATCH)]
        batch = make_batch(
            pictures,
            model.pixel_mean,
            model.pixel_std,
            32,
            original_sizes=[(height, width)] * BATCH,
            image_ids=names,
            device="cpu",
        )
        truth = TruePanoptic(ids, segments)
        batches.append(LabelledBatch(tuple(range(first, first + BATCH)), batch, (truth,) * BATCH))
    return batches


def main() -> None:
    """Measure both and print the ratio."""
    keep_freed_memory()  # as the command does
    height, width, images = (int(value) for value in sys.argv[1:4]) if len(sys.argv) > 3 else (800, 1088, 2)
    architecture = ARCHITECTURES["m2f-r50"]
    torch.manual_seed(0)
    model = build_model(architecture).eval().requires_grad_(False)
    model.sem_seg_head.predictor.class_embed.weight.mul_(12.0)
    batches = scenes(height, width, images, model)
    with torch.no_grad():
        sure = (
            model(batches[0].images.images, (6,), all_layers=False).pred_logits.softmax(dim=-1)[..., :-1].amax(dim=-1)
        )
    rule = PanopticRule(tuple(k < 80 for k in range(133)), tuple(range(1, 134)), float(sure.quantile(0.7)), 0.3)
    depths, threads = (2, 3, 4, 5, 6), torch.get_num_threads()

    def score(prediction: ImagePrediction, truth: TruePanoptic) -> ScoredPrediction:
        return score_prediction(prediction, truth, rule)

    def run(exits: tuple[int, ...]) -> float:
        start = time.perf_counter()
        segments = sum(len(rows) for rows in stream_rows(model, batches, exits, score, threads))
        assert segments == images
        return time.perf_counter() - start

    run((6,))
    times = {"one": [], "all": []}
    for _ in range(2):  # in turn, so that a busy moment of the machine meets both
        times["one"].append(run((6,)))
        times["all"].append(run(depths))
    one, all_exits = min(times["one"]) / images, min(times["all"]) / images
    padded = tuple(batches[0].images.images.shape[-2:])
    costs = count_gflops(architecture, (padded[0], padded[1]), (height, width), depths)
    shared = costs.backbone + costs.projections
    exact = shared + costs.encoder(6) + sum(costs.total(d) - shared - costs.encoder(d) for d in depths)
    print(f"{images} images of {height} x {width}, {threads} threads, load {os.getloadavg()[0]:.1f}")
    ratio = all_exits / one
    print(f"full-depth pass {one:.2f} s per image, five exits {all_exits:.2f} s: {ratio:.2f} passes (allowed 2.5)")
    print(f"multiply-adds, post-processing as published: {exact / costs.total(6):.2f} passes")


if __name__ == "__main__":
    main()
