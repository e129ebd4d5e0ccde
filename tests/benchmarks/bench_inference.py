"""Speed of inference: transformers' Mask2Former beside ours, then ours exit by exit and stage by stage.

Run from the repository: ``PYTHONPATH=tests python tests/benchmarks/bench_inference.py [--only
peer,exits,sampling,options,batch,sizes] [--repeats N] [--plot FILE]``. All of a table is measured in one run, in turn,
so that a busy moment of the machine meets all rows of it; ratios are medians of the turns' own ratios. Random weights,
the same for both, of the published sizes with 133 classes; the outputs are compared, too. Wanted at full depth: 2.0
times faster than the peer at 512 x 512 and 2.2 times at 800 x 1088; times per exit on a line within 3 %; a gate below
0.5 % of exit 2; a batch of mixed exits within 10 % of the mean of its images' own times; time linear in the number of
tokens.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from parity.peer import STAGES, randomise
from torch import Tensor

from ecocli.config.architecture import ArchitectureConfig
from ecocli.inference.postprocess import Geometry, PanopticRule, panoptic_inference
from ecocli.model.builders import build_model
from ecocli.model.compiled import compile_backbone
from ecocli.model.deformable import SamplingMethod
from ecocli.model.mask2former import Mask2Former
from ecocli.profiling.gflops import count_gflops
from ecocli.profiling.latency import line_through, measure_latency
from ecocli.runtime.memory import keep_freed_memory
from ecocli.weights.huggingface import architecture_from_folder
from ecocli.weights.loading import load_initial_weights

PARTS = ("backbone", "projections", "encoder", "mask_features", "transformer_decoder", "post_processing")
DEPTHS = (2, 3, 4, 5, 6)
WANTED = {(512, 512): 2.0, (800, 1088): 2.2}
BACKBONES = {"swin-t": "Swin-T", "r50": "ResNet-50"}
GROWING = ((256, 256), (384, 384), (512, 512), (512, 768), (800, 1088), (1024, 1024), (1024, 1536), (1024, 2048))


def build_peer(backbone: str) -> Any:
    """transformers' Mask2Former at its published size, every tensor random."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

    of_backbone: Any = (
        SwinConfig(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, out_features=STAGES)
        if backbone == "swin-t"
        else ResNetConfig(out_features=STAGES)
    )
    config = Mask2FormerConfig(backbone_config=of_backbone, num_labels=133)
    return randomise(Mask2FormerForUniversalSegmentation(config).eval())


def load_ours(peer: Any) -> tuple[ArchitectureConfig, Mask2Former]:
    """The same weights, by the way that users take: the peer's folder, imported."""
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        architecture, _ = architecture_from_folder(Path(folder))
        model = build_model(architecture)
        report = load_initial_weights(model, Path(folder))
    assert (report.missing, report.mismatched) == ((), ())
    return architecture, model.eval().requires_grad_(False)


def matmul_peak() -> float:
    """GFLOP/s of this machine's best product of two matrices; a multiply-add counts once, as in all our counts."""
    size, best = 2048, 0.0
    a, b = torch.randn(size, size), torch.randn(size, size)
    for _ in range(8):
        best = max(best, size**3 / 1e9 / seconds(lambda: torch.mm(a, b)))
    return best


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def picture(size: tuple[int, int], images: int = 1) -> torch.Tensor:
    """Smooth noise, normalised."""
    coarse = torch.randn(images, 3, size[0] // 16, size[1] // 16, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")


def compare(backbone: str, size: tuple[int, int], peer: Any, model: Mask2Former, repeats: int) -> None:
    """Print the times of both at full depth, their ratio and the largest difference of their outputs."""
    image = picture(size)
    theirs = partial(peer, pixel_values=image)
    ours = partial(model, image, (6,), all_layers=False)
    expected, found = theirs(), ours()
    scale = expected.masks_queries_logits.abs().mean()
    difference = max(
        float((found.pred_logits[0, 0] - expected.class_queries_logits).abs().max()),
        float((found.pred_masks[0, 0] - expected.masks_queries_logits).abs().max()),
    )
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(repeats)]
    ratios = [a / b for a, b in pairs]
    slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
    faster = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(
        f"| {BACKBONES[backbone]} | {size[0]} x {size[1]} | {slow:.2f} s | {fast:.2f} s | {faster} | {WANTED[size]} "
        f"| {difference:.0e} of {scale:.1f} |"
    )


def exits(
    backbone: str,
    size: tuple[int, int],
    architecture: ArchitectureConfig,
    model: Mask2Former,
    peak: float,
    repeats: int,
) -> None:
    """Print every exit's stages, its share of the matmul peak, and how well the exits lie on a line."""

    def post_process(final: Mapping[str, Tensor]) -> None:
        logits = final["pred_logits"][-1, 0].clone()
        logits[20:, -1] += 1e4  # twenty queries reach the masks, as photographs have them
        panoptic_inference(logits, final["pred_masks"][-1, 0], Geometry(size, size, size), rule)

    rule = PanopticRule(tuple(k < 80 for k in range(133)), tuple(range(1, 134)), 0.0, 0.8)
    latency = measure_latency(model, picture(size), DEPTHS, post_process=post_process, repetitions=repeats)
    costs = count_gflops(architecture, size, size, DEPTHS, convention="all")
    for exit_times in latency.exits:
        parts = " | ".join(f"{exit_times.parts[name].median_ms:.0f}" for name in PARTS)
        total = exit_times.total.median_ms
        share = costs.total(exit_times.exit_depth) / (total / 1000) / peak
        print(
            f"| {BACKBONES[backbone]} | {size[0]} x {size[1]} | {exit_times.exit_depth} | {parts} | {total:.0f} "
            f"| {share:.0%} |"
        )
    gate = latency.gate.median_ms / latency.exits[0].total.median_ms
    print(
        f"\n{BACKBONES[backbone]}, {size[0]} x {size[1]}: {latency.ms_per_layer:.1f} ms per layer, exits on a line "
        f"within {latency.line_error:.1%} (wanted 3 %), gate {latency.gate.median_ms:.2f} ms, {gate:.2%} of exit 2 "
        "(wanted below 0.5 %)\n"
    )


def sampling(model: Mask2Former, repeats: int) -> None:
    """Print an encoder layer's time with each way of deformable sampling."""
    for size in WANTED:
        features = model.extract(picture(size))
        taken: dict[SamplingMethod, list[float]] = {"grid_sample": [], "gather_sum": []}
        for turn in range(repeats + 1):
            for method, times in taken.items():
                for layer in model.sem_seg_head.pixel_decoder.encoder.layers:
                    layer.self_attn.sampling = method
                once = seconds(partial(model.encode, features, (3,)))
                if turn:
                    times.append(1000 * once / 3)
        slow, fast = (statistics.median(times) for times in taken.values())
        print(f"| {size[0]} x {size[1]} | {slow:.0f} ms | {fast:.0f} ms | {slow / fast:.1f} x |")
    for layer in model.sem_seg_head.pixel_decoder.encoder.layers:
        layer.self_attn.sampling = "auto"


def options(backbone: str, model: Mask2Former, repeats: int) -> None:
    """Print what bfloat16 and a compiled backbone bring at full depth; the four take turns."""
    kinds = {}
    for precision in ("float32", "bfloat16"):
        for compiled in (False, True):
            kind = copy.deepcopy(model)
            kind.autocast_dtype = None if precision == "float32" else torch.bfloat16
            if not compiled or compile_backbone(kind, print):
                kinds[precision + (", compiled" if compiled else "")] = kind
    for size in WANTED:
        image = picture(size)
        taken: dict[str, list[float]] = {name: [] for name in kinds}
        for turn in range(repeats + 2):
            for name, kind in kinds.items():
                once = seconds(partial(kind, image, (6,), all_layers=False))
                if turn > 1:
                    taken[name].append(once)
        plain = statistics.median(taken["float32"])
        cells = []
        for times in taken.values():
            cells.append(f"{statistics.median(times):.2f} s ({plain / statistics.median(times):.2f} x)")
        print(f"| {BACKBONES[backbone]} | {size[0]} x {size[1]} | {' | '.join(cells)} |")


def mixed(size: tuple[int, int], model: Mask2Former, repeats: int) -> None:
    """Print what a batch of mixed exits takes, against the mean of its images alone at their own exits."""
    depths = (6, 2, 4, 3)
    batch = picture(size, len(depths))

    def together() -> object:
        return model.predict_at(model.extract(batch), torch.tensor(depths))

    def alone() -> None:
        for row, depth in enumerate(depths):
            model(batch[row : row + 1], (depth,), all_layers=False)

    together(), alone()
    pairs = [(seconds(together), seconds(alone)) for _ in range(repeats)]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(column) / len(depths) for column in zip(*pairs, strict=True))
    print(
        f"mixed batch, exits {depths}, {size[0]} x {size[1]}: {a:.3f} s per image, alone {b:.3f} s: {ratio - 1:+.1%} "
        "(wanted within 10 %)"
    )


def growing(models: dict[str, Mask2Former], repeats: int, plot: Path | None) -> None:
    """Print and draw the time against the number of tokens."""
    drawn = {backbone: _times_by_size(model, repeats) for backbone, model in models.items()}
    tokens = [_tokens(size) for size in GROWING]
    for backbone, points in drawn.items():
        for depth in (2, 6):
            ms = [1000 * points[size][depth] for size in GROWING]
            slope, error = line_through(tokens, ms)
            rates = " | ".join(f"{1000 * t / n:.1f}" for t, n in zip(ms, tokens, strict=True))
            print(f"| {BACKBONES[backbone]} | {depth} | {rates} | {1000 * slope:.1f} | {error:.0%} |")
    if plot is not None:
        draw(drawn, plot)


def _times_by_size(model: Mask2Former, repeats: int) -> dict[tuple[int, int], dict[int, float]]:
    """Median seconds of an image at exit 2 and exit 6, by size; the sizes take turns."""

    def once(size: tuple[int, int], depth: int) -> float:
        image = picture(size)
        return seconds(lambda: model(image, (depth,), all_layers=False))

    turns = [{size: {depth: once(size, depth) for depth in (2, 6)} for size in GROWING} for _ in range(repeats + 1)]
    return {
        size: {depth: statistics.median(turn[size][depth] for turn in turns[1:]) for depth in (2, 6)}
        for size in GROWING
    }


def _tokens(size: tuple[int, int]) -> int:
    """Cells at strides 8, 16 and 32."""
    return size[0] * size[1] * 21 // 1024


def draw(drawn: dict[str, dict[tuple[int, int], dict[int, float]]], plot: Path) -> None:
    """Draw time against tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (backbone, points) in enumerate(drawn.items()):
        tokens = [_tokens(size) for size in points]
        for depth, style in ((2, "--"), (6, "-")):
            times = [of_size[depth] for of_size in points.values()]
            label = f"{BACKBONES[backbone]}, exit {depth}"
            axes.plot(tokens, times, style, marker="o", markersize=4, color=f"C{number}", label=label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of the encoder (256 x 256 to 1024 x 2048 pixels)")
    axes.set_ylabel("seconds per image")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(plot, metadata={"Software": None})


@torch.no_grad()
def main() -> None:
    """Measure and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="peer,exits,sampling,options,batch,sizes", help="tables to make")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="where to draw time against tokens")
    arguments = parser.parse_args()
    tables = arguments.only.split(",")
    warnings.simplefilter("ignore")
    models = {}
    peers = {}
    for backbone in BACKBONES:
        peers[backbone] = build_peer(backbone)
        models[backbone] = load_ours(peers[backbone])
    peak = matmul_peak()
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, matmul peak {peak:.0f} GMAC/s\n")
    for kept in (False, True) if "peer" in tables else ():
        # The commands keep freed memory on a CPU. It cannot be unset, and the peer gains by it too.
        kept = kept and keep_freed_memory()
        print(f"Freed memory {'kept, as the commands do, for both' if kept else 'as the system has it'}:\n")
        print("| backbone | size | transformers | eco, exit 6 | faster | wanted | largest difference |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for size in WANTED:
            for backbone, (_, model) in models.items():
                compare(backbone, size, peers[backbone], model, arguments.repeats)
        print()
    keep_freed_memory()
    if "exits" in tables:
        print(f"| backbone | size | exit | {' | '.join(name.replace('_', ' ') for name in PARTS)} | ms | of peak |")
        print("| --- " * (len(PARTS) + 5) + "|")
        for size in WANTED:
            for backbone, (architecture, model) in models.items():
                exits(backbone, size, architecture, model, peak, arguments.repeats)
    if "sampling" in tables:
        print("| size | a layer, grid_sample | a layer, gather-sum in tiles | faster |")
        print("| --- " * 4 + "|")
        sampling(models["r50"][1], arguments.repeats)
        print()
    if "options" in tables:
        print("| backbone | size | float32 | compiled | bfloat16 | bfloat16, compiled |")
        print("| --- " * 6 + "|")
        for backbone, (_, model) in models.items():
            options(backbone, model, arguments.repeats)
        print()
    if "batch" in tables:
        for size in WANTED:
            mixed(size, models["r50"][1], arguments.repeats)
        print()
    if "sizes" in tables:
        print(f"| backbone | exit | {' | '.join(f'{h}x{w}' for h, w in GROWING)} | slope | off the line |")
        print("| --- " * (len(GROWING) + 4) + "|")
        growing({name: model for name, (_, model) in models.items()}, max(2, arguments.repeats // 2), arguments.plot)


if __name__ == "__main__":
    main()
