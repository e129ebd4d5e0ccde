"""Milliseconds per exit and part on this machine.

Axes: E exits, R repetitions. Every repetition runs all exits in turn, so that a machine that slows down slows all of
them; runs before the first repetition warm up caches, allocators and compilers. Clocks are read after the device has
finished. A part's time is the difference of two readings inside one run, so parts add up to the run's total.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ecocli.artifacts.profile_summary import ExitTimes, Latency, Spread
from ecocli.config.exported import EngineName
from ecocli.config.fit_gate import FeatureName
from ecocli.config.precision import GraphPrecision
from ecocli.model.contracts import ExitModel
from ecocli.model.gate import Gate, pool_features
from ecocli.model.parts import run_parts


@torch.inference_mode()
def measure_latency(
    model: ExitModel,
    images: Float[Tensor, "B 3 H W"],
    exit_depths: Sequence[int],
    *,
    post_process: Callable[[Mapping[str, Tensor]], None],
    gate_feature: FeatureName = "res5",
    repetitions: int = 10,
    warm_up: int = 2,
    dtype: GraphPrecision = "float32",
    engine: EngineName = "torch",
    should_stop: Callable[[], bool] = lambda: False,
) -> Latency:
    """Time every exit, part by part.

    Args:
        model: In evaluation mode, on the images' device.
        images: A normalised batch, padded to a multiple of 32.
        exit_depths: In encoder layers run, ascending.
        post_process: What follows the network, on the tensors of its parts, ``pred_logits`` and the like [1, B, ...].
        gate_feature: Pooled feature whose gate is timed.
        repetitions: Measured runs per exit, at least 2.
        warm_up: Runs per exit that do not count.
        dtype: float32, or bfloat16 for autocast; exported graphs have their own.
        engine: What computes, for the record.
        should_stop: Asked before every run; the runs so far count if there are two of every exit.
    """
    device = images.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    runs: dict[int, list[tuple[float, ...]]] = {depth: [] for depth in exit_depths}
    gate_runs: list[float] = []
    sizes = [(images.shape[2], images.shape[3])] * len(images)
    features = model.extract(images, sizes)
    gate = Gate(pool_features(features, sizes, (gate_feature,))[gate_feature].shape[1], len(exit_depths)).to(device)

    def run_gate() -> None:
        gate(pool_features(features, sizes, (gate_feature,))[gate_feature]).argmax(dim=1)

    for repetition in range(-warm_up, repetitions):
        if repetition > 1 and should_stop():
            break
        for depth in exit_depths:
            autocast = engine == "torch" and dtype == "bfloat16"
            precision = torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()
            with precision:
                readings, gate_seconds = _run(model, images, depth, post_process, run_gate)
            if repetition >= 0:
                runs[depth].append(readings)
                gate_runs.append(gate_seconds)
    names = [part.name for part in model.parts(exit_depths[0])] + ["post_processing"]
    return _summarise(names, runs, gate_runs, images, dtype, engine)


def _run(
    model: ExitModel,
    images: Tensor,
    depth: int,
    post_process: Callable[[Mapping[str, Tensor]], None],
    run_gate: Callable[[], None],
) -> tuple[tuple[float, ...], float]:
    """One run: the seconds of every part, and of the gate, which is no part of it."""
    clock = _Clock(images.device)
    values = run_parts(model.parts(depth), {"images": images}, lambda _part: clock.note())
    post_process(values)
    clock.note()
    parts = clock.parts()
    clock = _Clock(images.device)
    run_gate()
    clock.note()
    return parts, clock.parts()[0]


class _Clock:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._readings: list[float] = []
        self.note()

    def note(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._readings.append(time.perf_counter())

    def parts(self) -> tuple[float, ...]:
        return tuple(np.diff(self._readings).tolist())


def _summarise(
    names: Sequence[str],
    runs: dict[int, list[tuple[float, ...]]],
    gate_runs: Sequence[float],
    images: Tensor,
    dtype: GraphPrecision,
    engine: EngineName,
) -> Latency:
    batch = len(images)
    exits = tuple(
        ExitTimes(
            exit_depth=depth,
            parts={
                name: Spread.of(seconds, batch)
                for name, seconds in zip(names, zip(*of_depth, strict=True), strict=True)
            },
            total=Spread.of([sum(parts) for parts in of_depth], batch),
        )
        for depth, of_depth in runs.items()
    )
    slope, error = line_through([e.exit_depth for e in exits], [e.total.median_ms for e in exits])
    return Latency(
        exits=exits,
        gate=Spread.of(gate_runs, batch),
        ms_per_layer=slope,
        line_error=error,
        padded_size=(images.shape[2], images.shape[3]),
        batch_size=batch,
        dtype=dtype,
        engine=engine,
        threads=torch.get_num_threads(),
        peak_memory_bytes=_peak_memory(images.device),
    )


def line_through(depths: Sequence[int], ms: Sequence[float]) -> tuple[float, float]:
    """Fit a line to times over depths.

    Returns:
        Milliseconds per layer, and the largest distance of a time from the line, over that time.
    """
    if len(depths) < 2:
        return 0.0, 0.0
    slope, offset = np.polyfit(depths, ms, 1)
    errors = [abs(offset + slope * depth - value) / value for depth, value in zip(depths, ms, strict=True)]
    return float(slope), float(max(errors))


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else 1024 * peak
