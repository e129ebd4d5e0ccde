"""Milliseconds of Mask2Former, Lite-M2F and RT-M2F at every exit, in one run, beside their GFLOPs.

The processor time of one thread is measured, so that other work on the machine counts as little as it can; backbone and
decoder are timed once per round and model, the encoder once per exit. The smallest of the rounds counts. The last
column is how far the encoder's times lie off a straight line in the depth.

    python tests/benchmarks/bench_encoders.py [--backbone r50] [--rounds 3] [--size 512x512 --size 800x1088]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ecocli.config.architecture import ARCHITECTURES
from ecocli.model.builders import build_model
from ecocli.profiling.gflops import count_gflops

FAMILIES = ("m2f", "lite-m2f", "rt-m2f")


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The result, and milliseconds of this thread."""
    start = time.thread_time()
    result = work(*arguments)
    return result, 1e3 * (time.thread_time() - start)


def measure(name: str, size: tuple[int, int], rounds: int) -> tuple[float, float, dict[int, float]]:
    """Milliseconds of extraction, decoding, and encoding up to each exit."""
    torch.manual_seed(0)
    model = build_model(ARCHITECTURES[name]).eval().requires_grad_(False)
    images = torch.randn(1, 3, *size)
    shared: list[tuple[float, float]] = []
    encoding: dict[int, list[float]] = {depth: [] for depth in model.exits.default_depths()}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            features, extract_ms = timed(model.extract, images)
            for depth, times in encoding.items():
                (tokens,), encode_ms = timed(model.encode, features, (depth,))
                times.append(encode_ms)
            _, decode_ms = timed(model.decode, tokens, features)
            shared.append((extract_ms, decode_ms))
    extract, decode = np.array(shared[1:]).min(axis=0)
    return float(extract), float(decode), {depth: min(times[1:]) for depth, times in encoding.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="r50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| size | model | exit | GFLOPs | pixel decoder | ms | encoder ms | ms per GFLOP of encoder | off the line |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for text in arguments.size or ["512x512", "800x1088"]:
        height, width = (int(side) for side in text.split("x"))
        for family in FAMILIES:
            name = f"{family}-{arguments.backbone}"
            extract, decode, encoding = measure(name, (height, width), arguments.rounds)
            costs = count_gflops(ARCHITECTURES[name], (height, width), (height, width), tuple(encoding))
            depths, times = np.array(list(encoding)), np.array(list(encoding.values()))
            line = np.polyval(np.polyfit(depths, times, 1), depths) if len(depths) > 1 else times
            for depth, ms, fitted in zip(encoding, times, line, strict=True):
                print(
                    f"| {text} | {name} | {depth} | {costs.total(depth):.1f} | {costs.pixel_decoder(depth):.1f} "
                    f"| {extract + ms + decode:.0f} | {ms:.0f} | {ms / costs.encoder(depth):.1f} "
                    f"| {100 * (ms - fitted) / (extract + fitted + decode):+.1f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
