"""Time and memory of the gate on a table of COCO's size: 118,287 images, 768 correlated features, 5 exits.

Run from the repository: ``PYTHONPATH=.:tests python tests/benchmarks/bench_fit_gate.py [images] [head|contents]``.
Wanted on two idle cores: one fit below 10 s, with the choice of regularisation below 40 s; the recipe ``contents`` on
1,536 features and 133 classes, choices included, below 20 s; memory below 3 GiB each. The yardstick is the same
objective under ``torch.optim.LBFGS`` with autograd and nothing else: no preconditioner, no written-out gradient.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn import functional as F

from ecocli.config.fit_gate import FitGateConfig
from ecocli.gates.class_head import fit_class_head, folds_of_rows
from ecocli.gates.fitter import GateFitter
from ecocli.gates.quality_head import fit_quality_head
from ecocli.gates.rows import SplitData, TrainingRows
from ecocli.gates.solver import StandardisedFeatures, solve
from ecocli.losses.gate import exit_utilities, loss_targets
from ecocli.metrics.assignment import CountTable, bootstrap_totals
from ecocli.metrics.bootstrap import one_hot

T = TypeVar("T")
FEATURES, TOKENS, LATENT, EXITS = 768, 1536, 96, 5


def timed(name: str, work: Callable[[], T]) -> tuple[T, float]:
    """Print how long a piece of work takes, on the clock and on all cores together."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    print(f"{name:<52} {clock:7.2f} s  (CPU {cpu:6.2f} s)", flush=True)
    return result, clock


def draw(images: int, size: int = FEATURES) -> tuple[np.ndarray, torch.Tensor]:
    """Draw half-zero, strongly correlated features and qualities that depend on them."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((LATENT, size), dtype=np.float32) / LATENT**0.5
    taste = rng.standard_normal((LATENT, EXITS)).astype(np.float32)
    features = np.empty((images, size), np.float16)
    quality = np.empty((images, EXITS))
    for start in range(0, images, 8192):
        rows = slice(start, min(start + 8192, images))
        latent = rng.standard_normal((rows.stop - start, LATENT), dtype=np.float32)
        noise = rng.standard_normal((len(latent), size), dtype=np.float32)
        features[rows] = np.maximum(latent @ mixing + 0.3 * noise, 0.0)
        quality[rows] = 0.5 + 0.006 * latent @ taste + 0.03 * rng.standard_normal((len(latent), EXITS))
    return features, torch.from_numpy(quality.clip(0.0, 1.0))


class PlainFit(NamedTuple):
    """Where the yardstick ended."""

    weight: torch.Tensor
    bias: torch.Tensor
    objective: float


def plain_lbfgs(values: torch.Tensor, targets: torch.Tensor, l2: float, start: PlainFit | None = None) -> PlainFit:
    """Fit without further thought, from zero or from another fit."""
    weight = torch.zeros(EXITS, FEATURES) if start is None else start.weight.clone()
    bias = torch.zeros(EXITS) if start is None else start.bias.clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=400, max_eval=500, tolerance_grad=1e-5, history_size=20, line_search_fn="strong_wolfe"
    )
    wanted = targets.float()

    def objective() -> torch.Tensor:
        return F.cross_entropy(F.linear(values, weight, bias), wanted) + l2 / 2 * weight.square().sum()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        return PlainFit(weight.detach(), bias.detach(), float(objective()))


def plain_choice(values: torch.Tensor, targets: torch.Tensor, strengths: Sequence[float], folds: int = 5) -> float:
    """Choose the strength as a library's cross-validation does, and return it.

    Each fold has its own fits, from the strongest regularisation to the weakest, each from the one before.
    """
    fold_of_row = folds_of_rows(len(values), folds, 0)
    losses = dict.fromkeys(sorted(strengths, reverse=True), 0.0)
    for fold in range(folds):
        left_out = fold_of_row == fold
        kept_values, kept_targets, fit = values[~left_out], targets[~left_out], None
        for l2 in losses:
            fit = plain_lbfgs(kept_values, kept_targets, l2, fit)
            scores = F.linear(values[left_out], fit.weight, fit.bias)
            losses[l2] += float(F.cross_entropy(scores, targets[left_out].float(), reduction="sum"))
    chosen = min(losses, key=losses.__getitem__)
    plain_lbfgs(values, targets, chosen, fit)
    return chosen


def count_table(images: int, classes: int = 133) -> CountTable:
    """Draw sparse counts, about eight classes per image."""
    rng = np.random.default_rng(1)
    P = images * EXITS * 8
    image = np.repeat(np.arange(images), EXITS * 8)
    exit_index = np.tile(np.repeat(np.arange(EXITS), 8), images)
    tp, fp, fn = (rng.integers(0, 2, P).astype(np.int32) for _ in range(3))
    tp |= ((fp == 0) & (fn == 0)).astype(np.int32)
    class_index = rng.integers(0, classes, P)
    return CountTable(images, EXITS, classes, image, exit_index, class_index, tp * rng.uniform(0.5, 1, P), tp, fp, fn)


def measure_contents(images: int) -> None:
    """Fit as ``--recipe contents`` does, from the table in memory to the gate and its lead out of fold."""
    raw, quality = draw(images, TOKENS)
    depths = np.broadcast_to(np.arange(2.0, 7.0), (images, EXITS))
    split = SplitData(quality.numpy(), count_table(images), raw, depths, depths, depths, "dataset-pq")
    config = FitGateConfig(beta=0.0005)
    print(f"{images} images x {TOKENS} features x 133 classes, {torch.get_num_threads()} threads")
    rows, rows_s = timed("contents, strength chosen", lambda: TrainingRows.of(split, config.through))
    fitter = GateFitter.of(config, rows, (2, 3, 4, 5, 6))
    gate, gate_s = timed("head through contents, strength chosen", lambda: fitter.fit(config.head, EXITS, 0.0005))
    _, lead_s = timed("lead out of fold, bootstrapped", lambda: fitter.out_of_fold(gate, 0.0))
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    total = rows_s + gate_s + lead_s
    print(f"recipe contents, all in  {total:6.2f} s = {total / 20:.2f} of the 20 s allowed")
    print(f"peak memory              {peak_gib:6.2f} GiB = {peak_gib / 3:.2f} of the 3 GiB allowed")


def measure_head(images: int) -> None:
    """Fit the heads themselves, beside the yardstick."""
    raw, quality = draw(images)
    utilities = exit_utilities(quality, torch.arange(2.0, 7.0)[None], 0.0005)
    targets, l2 = loss_targets(utilities, "hard-ce"), 1e-4
    print(
        f"{images} images x {FEATURES} features x {EXITS} exits, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    features, prepare_s = timed("standardise", lambda: StandardisedFeatures.from_raw(raw))
    _, spectrum_s = timed("second moments and their spectrum", lambda: features.spectrum)
    state, fit_s = timed("fit at one strength", lambda: solve(features, targets, "hard-ce", l2))
    print(
        f"  {state.evaluations} evaluations, objective {float(state.objective[0]):.8f}, "
        f"gradient norm {state.gradient_norm:.1e}"
    )
    chosen, choice_s = timed(
        "fit with the strength chosen by 5 folds", lambda: fit_class_head(features, targets, "hard-ce")
    )
    print(f"  strengths tried: {', '.join(f'{strength:.2g}' for strength, _ in chosen.path)}; chosen {chosen.l2:.2g}")
    near = loss_targets(exit_utilities(quality, torch.arange(2.0, 7.0)[None], 0.001), "hard-ce")
    timed("the next beta, started warm", lambda: fit_class_head(features, near, "hard-ce", warm=chosen.warm))
    timed("quality head, strength chosen", lambda: fit_quality_head(features, quality))
    table = count_table(min(images, 5000))
    weights = np.stack([one_hot(table.fixed_assignment(e), EXITS) for e in range(EXITS)])
    timed(
        f"bootstrap of {EXITS} exits, 1000 x {table.num_images} images",
        lambda: bootstrap_totals(table, weights, 1000, 0),
    )
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    plain, plain_s = timed("yardstick: plain LBFGS with autograd", lambda: plain_lbfgs(features.values, targets, l2))
    strengths = [strength for strength, _ in chosen.path]
    _, plain_choice_s = timed(
        "yardstick: the same strengths, fold by fold", lambda: plain_choice(features.values, targets, strengths)
    )
    one, all_in = prepare_s + spectrum_s + fit_s, prepare_s + spectrum_s + choice_s
    print(f"one fit, all in          {one:6.2f} s = {one / 10:.2f} of the 10 s allowed")
    print(f"choice of strength       {all_in:6.2f} s = {all_in / 40:.2f} of the 40 s allowed")
    print(f"peak memory              {peak_gib:6.2f} GiB = {peak_gib / 3:.2f} of the 3 GiB allowed")
    gain = plain.objective - float(state.objective[0])
    print(f"against the yardstick    {plain_s / one:6.2f} x as fast, objective lower by {gain:.1e}")
    print(f"  the choice of strength {plain_choice_s / (spectrum_s + choice_s):6.2f} x as fast")


def main() -> None:
    """Measure what is asked, both by default, and print the ratios."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 118_287
    parts = sys.argv[2:] or ["contents", "head"]
    if "contents" in parts:
        measure_contents(images)
    if "head" in parts:
        measure_head(images)


if __name__ == "__main__":
    main()
