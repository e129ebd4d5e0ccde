"""What a profile tells of a model by exit and part: GFLOPs in its manifest, milliseconds in its provenance."""

import statistics
from collections.abc import Sequence

from ecocli.config.base import Config
from ecocli.config.exported import EngineName
from ecocli.config.precision import GraphPrecision
from ecocli.config.profile_model import ConventionName


class ProfiledExit(Config):
    """GFLOPs of one exit by part."""

    exit_depth: int
    backbone: float
    pixel_decoder: float
    encoder: float
    upsampling: float
    transformer_decoder: float
    post_processing: float
    total: float


class ExpectedCost(Config):
    """Mean cost under a gate's choice of exits on the images it was scored on; its own cost included."""

    digest: str
    beta: float
    exit_depths: tuple[int, ...]
    exit_shares: tuple[float, ...]
    scored_on: str
    mean_depth: float
    pixel_decoder: float
    total: float


class ProfiledInput(Config):
    """Mean cost of images that share one row.

    Attributes:
        input: What the table calls them.
        images: Their number.
        padded_sizes: Sizes that the network sees, in pixels.
        exits: Every exit.
        gate_gflops: What a gate costs by itself.
        gate: Cost under a gate; None without one.
    """

    input: str
    images: int
    padded_sizes: tuple[tuple[int, int], ...]
    exits: tuple[ProfiledExit, ...]
    gate_gflops: float
    gate: ExpectedCost | None


class ProfileSummary(Config):
    """GFLOPs of a model.

    Attributes:
        architecture: Its name.
        num_classes: Classes without "no object".
        convention: What counts as an operation.
        exit_depths: The exits shown.
        parameters: Number of parameters by part.
        inputs: By kind of image.
    """

    architecture: str
    num_classes: int
    convention: ConventionName
    exit_depths: tuple[int, ...]
    parameters: dict[str, int]
    inputs: tuple[ProfiledInput, ...]


class Spread(Config):
    """Milliseconds of one image over the repetitions.

    Attributes:
        low_ms: A quarter of the runs took less.
        high_ms: A quarter of the runs took longer.
    """

    median_ms: float
    low_ms: float
    high_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float], images: int) -> "Spread":
        """Summarise runs over this many images each."""
        ms = [1000.0 * value / images for value in seconds]
        low, _, high = statistics.quantiles(ms, n=4, method="inclusive")
        return cls(median_ms=statistics.median(ms), low_ms=low, high_ms=high)


class ExitTimes(Config):
    """Times of one exit: every part by name, and the whole."""

    exit_depth: int
    parts: dict[str, Spread]
    total: Spread


class Latency(Config):
    """Times of all exits, and what they were measured with.

    Attributes:
        exits: One entry per exit, ascending.
        gate: Pooling and linear layer, spent beside an exit's time where a gate decides.
        ms_per_layer: Slope of the line through the exits' medians.
        line_error: Largest distance of a median from that line, over the median.
        padded_size: The network's input.
        engine: What computes them.
        peak_memory_bytes: Largest memory: of the device on a GPU, of the whole process otherwise.
    """

    exits: tuple[ExitTimes, ...]
    gate: Spread
    ms_per_layer: float
    line_error: float
    padded_size: tuple[int, int]
    batch_size: int
    dtype: GraphPrecision
    engine: EngineName
    threads: int
    peak_memory_bytes: int


class InputLatency(Latency):
    """Times of one kind of image; see ``ProfiledInput.input``."""

    input: str
