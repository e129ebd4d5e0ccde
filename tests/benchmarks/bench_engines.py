"""Processor time of one image in torch, ONNX Runtime and OpenVINO, in each number format, at exits and under a gate.

    python tests/benchmarks/bench_engines.py make FOLDER m2f-r50 512     graphs of drawn weights, once
    python tests/benchmarks/bench_engines.py run FOLDER ROUNDS           one table

``make`` writes FOLDER/float32, FOLDER/bfloat16 (the same graphs, for OpenVINO) and FOLDER/int8 (ONNX, which both
engines read), the weights, and transformers' model as an ONNX graph. ``run`` takes one thread and processor time, so
that a busy machine disturbs little; every round runs all choices in turn, and ratios are medians over the rounds of
ratios within a round. Pixels to logits; batch 1. The drawn gate sends the image to exit 3. A trained export may stand
in FOLDER/float32 and FOLDER/int8 instead.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ecocli.artifacts.tensors import load_tensors, save_tensors
from ecocli.config.architecture import ARCHITECTURES
from ecocli.config.exported import PLAN_FILE, ExportedPlan, GateEntry
from ecocli.data.batching import ImageBatch
from ecocli.export.folder import write_graphs
from ecocli.export.graphs import graph_modules, layer_name
from ecocli.export.quantise import quantise_graphs
from ecocli.inference.engines import open_engine
from ecocli.inference.loading import restore_gate, restore_model
from ecocli.inference.predictor import predict_exits, predict_gated
from ecocli.model.builders import build_model
from ecocli.model.contracts import ExitModel
from ecocli.profiling.latency import line_through
from ecocli.runtime.memory import keep_freed_memory

RES5 = {"m2f-r50": 2048, "m2f-swin-t": 768, "m2f-shapes": 256}
EXITS = (2, 3, 4, 5, 6)
WEIGHTS, GATE, TRANSFORMERS = "model.safetensors", "gate.safetensors", "transformers.onnx"
CHOSEN = 3
# Three of the exits: enough for a line.
MEASURED = (2, 4, 6)


def make(folder: Path, arch: str, side: int) -> None:
    """Write graphs of drawn weights in float32 and int8, and transformers' model."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    architecture = ARCHITECTURES[arch]
    model = build_model(architecture).eval().requires_grad_(False)
    (folder / WEIGHTS).write_bytes(save_tensors(model.state_dict()))
    bias = torch.tensor([float(depth == CHOSEN) for depth in EXITS]) * 1e6
    state = {"linear.weight": torch.randn(len(EXITS), RES5[arch]), "linear.bias": bias}
    entry = GateEntry(digest="drawn", exit_depths=EXITS, feature="res5", head="class", beta=0.0, exit_costs=())
    gate = restore_gate(state, entry, "cpu", "drawn")
    out = folder / "float32"
    out.mkdir()
    plan = ExportedPlan(
        format="onnx",
        precision="float32",
        parent="drawn",
        exits={str(depth): tuple(map(layer_name, model.exits.layers_of(depth))) for depth in EXITS},
        graphs=write_graphs(graph_modules(model, gate, EXITS), (side, side), True, "onnx", out),
        gate=entry,
        architecture=architecture,
        categories=(),
        resize={"short_edge_px": None, "long_edge_px": None},
        sizes=((side, side),),
    )
    (out / GATE).write_bytes(save_tensors(state))
    (out / PLAN_FILE).write_text(plan.model_dump_json())
    (folder / "bfloat16").mkdir()
    for file in out.iterdir():
        (folder / "bfloat16" / file.name).symlink_to(file.resolve())
    (folder / "bfloat16" / PLAN_FILE).unlink()
    (folder / "bfloat16" / PLAN_FILE).write_text(plan.model_copy(update={"precision": "bfloat16"}).model_dump_json())
    print("float32 and bfloat16 written", flush=True)
    quantise(folder, [torch.randn(1, 3, side, side) for _ in range(2)])
    if arch == "m2f-r50":
        write_transformers(folder / TRANSFORMERS, side)


def quantise(folder: Path, images: list[torch.Tensor]) -> None:
    """Write FOLDER/int8 from FOLDER/float32."""
    import shutil

    floats = open_engine(folder / "float32", "onnxruntime", 1)
    shutil.copytree(folder / "float32", folder / "int8")
    graphs = quantise_graphs(folder / "int8", floats, images, logging.getLogger("bench"))
    content = floats.plan.model_copy(update={"precision": "int8", "graphs": graphs})
    (folder / "int8" / PLAN_FILE).write_text(content.model_dump_json())
    print("int8 written", flush=True)


def transformers_model() -> torch.nn.Module:
    """Transformers' Mask2Former R-50 with drawn weights."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    config = Mask2FormerConfig(
        backbone_config=ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
        num_labels=133,
        decoder_layers=10,
    )
    return Mask2FormerForUniversalSegmentation(config).eval()


def write_transformers(path: Path, side: int) -> None:
    """Write transformers' model as a graph."""
    examples = (torch.zeros(1, 3, side, side),)
    program = torch.onnx.export(transformers_model(), examples, dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    program.save(path)
    print("transformers written", flush=True)


Choice = tuple[str, Callable[[], object]]


def choices(folder: Path) -> Iterator[Choice]:
    """Every row of the table with what runs it once."""
    plan = open_engine(folder / "float32", "onnxruntime", 1).plan
    side = plan.sizes[0] if plan.sizes else (128, 128)
    images = torch.randn(1, 3, *side, generator=torch.Generator().manual_seed(1))
    batch = ImageBatch(images, (side,), (side,), ("0",))
    models: dict[str, ExitModel] = {}
    for precision in ("float32", "bfloat16"):
        state = load_tensors(folder / WEIGHTS)
        models[f"torch {precision}"] = restore_model(plan.architecture, state, "cpu", "drawn", precision)
    for engine in ("onnxruntime", "openvino"):
        for precision in ("float32", "bfloat16", "int8"):
            if (folder / precision / PLAN_FILE).exists() and (engine, precision) != ("onnxruntime", "bfloat16"):
                models[f"{engine} {precision}"] = open_engine(folder / precision, engine, 1)
    assert plan.gate is not None
    gate = restore_gate(load_tensors(folder / "float32" / GATE), plan.gate, "cpu", "drawn")

    def at(model: ExitModel, depth: int) -> Callable[[], object]:
        return lambda: next(predict_exits(model, model.extract(images, [side]), batch, (depth,)))

    def gated(model: ExitModel) -> Callable[[], object]:
        return lambda: predict_gated(model, gate, batch)

    for name, model in models.items():
        for depth in MEASURED:
            yield f"{name} exit {depth}", at(model, depth)
        taken = predict_gated(model, gate, batch)[0].exit_depth
        yield f"{name} gate, which takes exit {taken}", gated(model)
    if (folder / TRANSFORMERS).exists():
        yield from transformers_choices(folder / TRANSFORMERS, images)


def transformers_choices(path: Path, images: torch.Tensor) -> Iterator[Choice]:
    """The whole model of transformers in torch and both engines."""
    import onnxruntime
    import openvino

    eager = transformers_model()
    yield "torch float32 transformers", lambda: eager(images)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: images.numpy()}
    yield "onnxruntime float32 transformers", lambda: session.run(None, given)
    for precision, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1}
        request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
        yield f"openvino {precision} transformers", partial(request.infer, given)


def run(folder: Path, rounds: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = list(choices(folder))
    seconds: dict[str, list[float]] = {name: [] for name, _ in rows}
    for round_ in range(-1, rounds):
        for name, call in rows:
            start = time.process_time()
            call()
            if round_ >= 0:
                seconds[name].append(time.process_time() - start)
        print(f"round {round_ + 1} of {rounds}", file=sys.stderr, flush=True)
    base = np.array(seconds[f"torch float32 exit {MEASURED[-1]}"])
    print("| choice | ms | of torch, float32, deepest |\n| --- | --- | --- |")
    for name, values in seconds.items():
        print(f"| {name} | {1000 * statistics.median(values):.0f} | {np.median(np.array(values) / base):.2f} |")
    first = f" exit {MEASURED[0]}"
    for name in (name.removesuffix(first) for name in seconds if name.endswith(first) and "gate" not in name):
        medians = [1000 * statistics.median(seconds[f"{name} exit {depth}"]) for depth in MEASURED]
        slope, error = line_through(MEASURED, medians)
        print(f"{name}: {slope:.1f} ms a layer, exits within {100 * error:.1f} % of a line")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    command, place, *further = sys.argv[1:]
    with torch.no_grad():
        if command == "make":
            make(Path(place), further[0], int(further[1]))
        else:
            run(Path(place), int(further[0]))
