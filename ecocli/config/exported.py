"""``plan.json``: what a folder of exported graphs holds and how they are put together.

An image passes ``extract`` once, then the layers of its exit in their order, then ``decode``; ``gate`` scores the exits
from what ``extract`` gives. Everything else that a runner needs is here: size rule, normalisation, categories,
thresholds.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.base import Config
from ecocli.config.category import CategoryConfig
from ecocli.config.dataset import ResizeConfig
from ecocli.config.fit_gate import FeatureName, HeadName
from ecocli.config.precision import GraphPrecision

PLAN_FILE = "plan.json"
PLAN_SCHEMA = 1

GraphFormat = Literal["onnx", "openvino"]
Engine = Literal["onnxruntime", "openvino"]
EngineName = Literal["torch", "onnxruntime", "openvino"]


class GraphsConfig(Config):
    """Exported graphs that take the network's place in an evaluation or a profile.

    Attributes:
        engine: What runs them.
        plan: SHA-256 of ``plan.json``, which has that of every graph.
        folder: Where they are; no part of the serialised settings.
    """

    engine: Engine
    plan: str
    folder: str = Field(exclude=True)


class GraphEntry(Config):
    """One graph.

    Attributes:
        files: Digest of each of its files by name; the first is the one to open.
        inputs: Names of its inputs.
        outputs: Names of its outputs, in order.
    """

    files: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class GateEntry(Config):
    """The gate of a folder; its scores come from the graph ``gate``, its weights are in ``gate.safetensors``.

    Attributes:
        digest: Of the gate in the store.
        exit_depths: The exits it chooses among, in the order of its scores; the first of equal scores counts.
        feature: The pooled feature it reads.
        head: What it predicts.
        beta: Price in its biases.
        exit_costs: Mean cost of each exit, in the unit that beta is a price of.
    """

    digest: str
    exit_depths: tuple[PositiveInt, ...]
    feature: FeatureName
    head: HeadName
    beta: float
    exit_costs: tuple[float, ...]


class ExportedPlan(Config):
    """The content of ``plan.json``.

    Attributes:
        schema_version: Version of this layout.
        format: Kind of the graphs.
        precision: What the graphs are meant to be run in; ``bfloat16`` is float32 graphs for an engine told so.
        parent: Digest of the parent.
        exits: Graphs between ``extract`` and ``decode``, by exit depth.
        graphs: Every graph by name, which ends in the size where there are several.
        gate: The gate, if the folder has one.
        architecture: Of the parent: pixel statistics, thresholds, numbers of classes and queries.
        categories: In the order of the class index.
        resize: Size rule of the network's input.
        size_divisor: Padded sides are multiples of it.
        smallest_side_px: Padded sides are at least this.
        sizes: The padded sizes (height, width) that the graphs take; none where they take any.
    """

    schema_version: Literal[1] = 1
    format: GraphFormat
    precision: GraphPrecision
    parent: str
    exits: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
    graphs: dict[str, GraphEntry]
    gate: GateEntry | None
    architecture: ArchitectureConfig
    categories: tuple[CategoryConfig, ...]
    resize: ResizeConfig
    size_divisor: PositiveInt = 32
    smallest_side_px: PositiveInt = 64
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()

    def graph_name(self, part: str, size: Sequence[int]) -> str:
        """Name of a part's graph for images of a padded size (height, width)."""
        return sized_name(part, size) if len(self.sizes) > 1 else part

    @property
    def gate_beta(self) -> float | None:
        """The price that the gate was exported at, where it has one and not one only."""
        return self.gate.beta if self.gate is not None and self.gate.head == "quality" else None

    @property
    def exit_depths(self) -> tuple[int, ...]:
        """The exits, ascending, in encoder layers run."""
        return tuple(sorted(map(int, self.exits)))


def sized_name(part: str, size: Sequence[int]) -> str:
    """Name of a part's graph in a folder that has several sizes."""
    return f"{part}-{size[0]}x{size[1]}"
