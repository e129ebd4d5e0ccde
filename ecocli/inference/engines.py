"""A folder of exported graphs, run by ONNX Runtime or OpenVINO, behind the interface of a model.

Axes: B images, E exits, Q queries, K classes, N tokens. Graphs take one image; images of a batch run one after the
other, each through the layers of its own exit. Nothing but ``plan.json`` says how the graphs fit together.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor

from ecocli.artifacts.digest import sha256_file
from ecocli.config.exported import PLAN_FILE, PLAN_SCHEMA, Engine, ExportedPlan, GraphEntry
from ecocli.config.precision import GraphPrecision
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.model.contracts import ExitModel, Size
from ecocli.model.mask2former import Predictions
from ecocli.model.parts import Part
from ecocli.model.pixel_decoder import Features
from ecocli.weights.files import read_json

Session = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]
ENGINE_OF_FORMAT: Final[Mapping[str, Engine]] = {"onnx": "onnxruntime", "openvino": "openvino"}
# Of the inputs that tell the padded size; every graph has one of them.
_STRIDES: Final[Mapping[str, int]] = {"image": 1, "lateral": 4, "res5": 32}
_EXTRA: Final[Mapping[str, str]] = {"onnxruntime": "onnx", "openvino": "openvino"}


def read_plan(folder: Path) -> ExportedPlan:
    """Read and check ``plan.json``.

    Raises:
        DataError: The folder or the file is missing or no JSON.
        ArtifactError: It has another schema, or does not fit together.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        raise DataError(f"{folder} has no {PLAN_FILE}. Expected a folder that `eco export --format onnx` wrote.")
    content = read_json(path)
    version = content.get("schema_version")
    if version != PLAN_SCHEMA:
        raise ArtifactError(
            f"{path} has schema version {version}, this version of eco reads {PLAN_SCHEMA}. Export the model again."
        )
    try:
        plan = ExportedPlan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path} is damaged: {where}: {first['msg']}. Export the model again.") from error
    parts = {name for names in plan.exits.values() for name in ("extract", *names, "decode")}
    missing = {plan.graph_name(part, size) for part in parts for size in plan.sizes or ((),)} - set(plan.graphs)
    if missing:
        raise ArtifactError(f"{path} names no graph {', '.join(sorted(missing))}. Export the model again.")
    return plan


def open_engine(folder: Path, engine: str | None = None, threads: int | None = None) -> "EngineModel":
    """Load a folder of graphs.

    Args:
        engine: ``onnxruntime`` or ``openvino``, which reads both formats; None for the format's own.
        threads: CPU threads; None for the engine's choice.

    Raises:
        DataError: The folder is missing or incomplete.
        ArtifactError: A graph is damaged, or the folder has another schema.
        UsageError: The engine is not installed or cannot run such a folder.
    """
    plan = read_plan(folder)
    name = check_graphs(folder, plan, engine)
    opener = _onnxruntime_opener(threads) if name == "onnxruntime" else _openvino_opener(threads, plan.precision)
    precision = plan.precision if name == "onnxruntime" else _openvino_precision(plan.precision)
    sessions = {}
    for graph, entry in plan.graphs.items():
        path = _checked(folder, entry)
        try:
            sessions[graph] = opener(path, entry)
        except Exception as error:
            # Engines raise classes of their own, several of them without a common base.
            raise ArtifactError(
                f"{name} cannot load {path} ({' '.join(str(error).split())[:200]}). Export the model again, or "
                "install the pinned version of the engine."
            ) from error
    return EngineModel(plan, name, sessions, precision)


def check_graphs(folder: Path, plan: ExportedPlan, engine: str | None = None) -> Engine:
    """Refuse what `open_engine` would refuse of a folder, but for files that are damaged: none is read.

    Returns:
        The engine that shall run it.

    Raises:
        DataError: The folder is incomplete.
        UsageError: The engine is not installed or cannot run such a folder.
    """
    name = ENGINE_OF_FORMAT[plan.format] if engine is None else engine
    if name == "onnxruntime" and plan.format != "onnx":
        raise UsageError(f"ONNX Runtime cannot run {folder}, which holds OpenVINO graphs. Use --engine openvino.")
    if name == "onnxruntime" and plan.precision == "bfloat16":
        raise UsageError(f"ONNX Runtime has no bfloat16 on CPUs, as {folder} asks for. Use --engine openvino.")
    if name not in _EXTRA:
        raise UsageError(f"{name} runs no folder of graphs. Name onnxruntime or openvino.")
    require_engine(name)
    for graph, entry in plan.graphs.items():
        for file in entry.files:
            if Path(file).name != file or not (folder / file).is_file():
                raise DataError(f"{folder} lacks {file} of the graph {graph}. Copy the whole folder again.")
    return cast(Engine, name)


def require_engine(name: str) -> None:
    """Make sure that an engine is installed.

    Raises:
        UsageError: It is not.
    """
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"The engine {name} is not installed ({error}). Install it with `pip install 'ecocli[{_EXTRA[name]}]'`."
        ) from error


def _checked(folder: Path, entry: GraphEntry) -> Path:
    """The graph's first file, once all of them are what was exported."""
    for file, digest in entry.files.items():
        path = folder / file
        if sha256_file(path) != digest:
            raise ArtifactError(f"{path} is damaged: its SHA-256 is not the one in {PLAN_FILE}. Copy it again.")
    return folder / next(iter(entry.files))


def _onnxruntime_opener(threads: int | None) -> Callable[[Path, GraphEntry], Session]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads

    def load(path: Path, entry: GraphEntry) -> Session:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs = list(entry.outputs)
        return lambda values: cast(list[np.ndarray], session.run(outputs, dict(values)))

    return load


def _openvino_opener(threads: int | None, precision: str) -> Callable[[Path, GraphEntry], Session]:
    import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Its own choice would be bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads

    def load(path: Path, entry: GraphEntry) -> Session:
        request = core.compile_model(str(path), "CPU", settings).create_infer_request()

        def run(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            results = request.infer(dict(values), share_inputs=True)
            return [results[name] for name in entry.outputs]

        return run

    return load


def _openvino_precision(wanted: GraphPrecision) -> GraphPrecision:
    """What OpenVINO computes in: without the processor's instructions for bfloat16 it takes float32."""
    import openvino

    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "float32" if wanted == "bfloat16" and not has_bfloat16 else wanted


class EngineModel(ExitModel):
    """Exported graphs with a model's methods.

    Args:
        sessions: A function of named inputs for every graph.
        precision: What the engine computes in, where the machine has no bfloat16 not what the plan asks for.
    """

    size_divisor = 32

    def __init__(
        self, plan: ExportedPlan, engine: Engine, sessions: Mapping[str, Session], precision: GraphPrecision
    ) -> None:
        super().__init__(plan.architecture.pixel_mean, plan.architecture.pixel_std)
        self.plan = plan
        self.engine = engine
        self.precision = precision
        self._sessions = sessions

    @property
    def num_classes(self) -> int:
        """K, without "no object"."""
        return self.plan.architecture.num_classes

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.plan.architecture.transformer_decoder.num_queries

    def extract(self, images: Float[Tensor, "B 3 H W"], image_sizes: Sequence[Size] | None = None) -> Features:
        """Run the graph ``extract`` on every image.

        Raises:
            UsageError: The graphs do not take images of this size.
        """
        self._check_size(images.shape[2], images.shape[3])
        tokens, lateral, res5 = self._each("extract", {"image": images})
        height, width = res5.shape[2:]
        shapes = tuple((factor * height, factor * width) for factor in (1, 2, 4))
        return Features({"res5": res5}, tokens, shapes, lateral)

    def encode(self, features: Features, exit_depths: Sequence[int]) -> tuple[Float[Tensor, "B N C"], ...]:
        """Tokens after each wanted encoder depth; a layer that two exits share runs once."""
        rows = [self._encode_image(features, image, exit_depths) for image in range(len(features.tokens))]
        return tuple(torch.cat(column) for column in zip(*rows, strict=True))

    def decode(self, tokens: Float[Tensor, "B N C"], features: Features, all_layers: bool = False) -> Predictions:
        """Encoded tokens to final predictions with the leading axis S = 1; ``tokens`` may hold several exits in turn.

        Raises:
            UsageError: Every layer's prediction is asked for, which the graphs do not give.
        """
        if all_layers:
            raise UsageError("Exported graphs give final predictions only. Run the parent in torch.")
        logits, masks = self._each("decode", {"tokens": tokens, "lateral": features.lateral})
        return Predictions(logits[None], masks[None])

    def predict_at(self, features: Features, depths: Int[Tensor, " B"]) -> Predictions:
        """Final predictions, each image at its own exit depth: [B, Q, K+1] and [B, Q, H/4, W/4]."""
        rows = [self._encode_image(features, image, [depth])[0] for image, depth in enumerate(depths.tolist())]
        final = self.decode(torch.cat(rows), features)
        return Predictions(final.pred_logits[-1], final.pred_masks[-1])

    def gate_scores(self, features: Features, image_sizes: Sequence[Size]) -> Float[Tensor, "B E"]:
        """Scores of the gate's exits from the graph ``gate``."""
        rows = []
        for index, size in enumerate(image_sizes):
            values = {"tokens": features.tokens[index, None], "res5": features.maps["res5"][index, None]}
            rows += self._run("gate", {**values, "image_size": torch.tensor(size)})
        return torch.cat(rows)

    def _encode_image(self, features: Features, image: int, depths: Sequence[int]) -> list[Float[Tensor, "1 N C"]]:
        res5 = features.maps["res5"][image, None]
        done: dict[tuple[str, ...], Tensor] = {(): features.tokens[image, None]}
        for depth in depths:
            names = self.plan.exits[str(depth)]
            for end in range(1, len(names) + 1):
                if names[:end] not in done:
                    (done[names[:end]],) = self._run(names[end - 1], {"tokens": done[names[: end - 1]], "res5": res5})
        return [done[self.plan.exits[str(depth)]] for depth in depths]

    def parts(self, exit_depth: int, all_layers: bool = False) -> tuple[Part, ...]:
        """The steps of one exit: ``extract`` (backbone and projections), ``encoder``, ``decode`` (all that follows)."""

        def extract(images: Tensor) -> tuple[Tensor, ...]:
            return self._each("extract", {"image": images})

        def encode(tokens: Tensor, res5: Tensor) -> tuple[Tensor, ...]:
            for layer in self.plan.exits[str(exit_depth)]:
                (tokens,) = self._each(layer, {"tokens": tokens, "res5": res5})
            return (tokens,)

        def decode(tokens: Tensor, lateral: Tensor) -> tuple[Tensor, ...]:
            logits, masks = self._each("decode", {"tokens": tokens, "lateral": lateral})
            return logits[None], masks[None]

        return (
            Part("extract", extract, ("images",), ("tokens", "lateral", "res5")),
            Part("encoder", encode, ("tokens", "res5"), ("tokens",)),
            Part("decode", decode, ("tokens", "lateral"), ("pred_logits", "pred_masks")),
        )

    def inputs_of(self, graph: str, image: Float[Tensor, "1 3 H W"], exit_depth: int) -> dict[str, np.ndarray]:
        """What a part's graph is given when an image passes the graphs of an exit, to which it belongs."""
        values = {"image": image}
        for name in ("extract", *self.plan.exits[str(exit_depth)], "decode"):
            entry = self.plan.graphs[self.plan.graph_name(name, image.shape[2:])]
            if name == graph:
                return {key: np.ascontiguousarray(values[key].numpy()) for key in entry.inputs}
            values |= zip(entry.outputs, self._run(name, values), strict=True)
            values["tokens"] = values.get("encoded", values["tokens"])
        raise ValueError(f"{graph} is no graph of exit {exit_depth}")

    def _each(self, graph: str, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run a graph on every row of a batch; shorter inputs start again from their first row."""
        longest = max(map(len, values.values()))
        rows = [
            self._run(graph, {name: value[row % len(value), None] for name, value in values.items()})
            for row in range(longest)
        ]
        return tuple(torch.cat(column) for column in zip(*rows, strict=True))

    def _run(self, part: str, values: Mapping[str, Tensor]) -> list[Tensor]:
        map_, stride = next((values[name], stride) for name, stride in _STRIDES.items() if name in values)
        graph = self.plan.graph_name(part, [side * stride for side in map_.shape[2:]])
        arrays = {name: np.ascontiguousarray(values[name].numpy()) for name in self.plan.graphs[graph].inputs}
        return [torch.from_numpy(array) for array in self._sessions[graph](arrays)]

    def _check_size(self, height: int, width: int) -> None:
        plan = self.plan
        if plan.sizes:
            if (height, width) not in plan.sizes:
                offered = ", ".join(f"{h} x {w}" for h, w in plan.sizes)
                raise UsageError(
                    f"The graphs take padded images of {offered}, found {height} x {width}. Export them for this size "
                    "with --size, or resize the images."
                )
            return
        too_small = min(height, width) < plan.smallest_side_px
        if too_small or height % plan.size_divisor or width % plan.size_divisor:
            raise UsageError(
                f"The graphs take images padded to multiples of {plan.size_divisor}, each side at least "
                f"{plan.smallest_side_px}, found {height} x {width}. Give larger images."
            )
