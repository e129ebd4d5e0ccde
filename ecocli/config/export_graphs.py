"""Settings of ``eco export --format onnx | openvino``."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from ecocli.config.base import Config
from ecocli.config.dataset import DatasetConfig, ResizeConfig
from ecocli.config.exported import GraphFormat
from ecocli.config.precision import GraphPrecision


class ExportGraphsConfig(Config):
    """What to write of a parent and its gate.

    Attributes:
        out: Folder to write.
        format: Kind of the graphs.
        exit_depth: The deepest exit to keep; None for the parent's deepest.
        beta: Price of compute for a gate that predicts quality; None for the one it was fitted at.
        precision: What engines shall compute in; ``bfloat16`` is float32 graphs run so, with OpenVINO only.
        dataset: Its training images set the scales of int8, its validation images tell what a precision costs.
        calibration_images: How many set the scales.
        checked_images: How many PQ is measured on before and after, where the precision is not float32.
        sizes: The padded sizes (height, width) that the graphs shall take, each in graphs of its own; none for any.
        test_resize: How images are resized for the network; None for the parent's own rule.
        replace: Whether an earlier export may be replaced.
    """

    out: str
    format: GraphFormat
    exit_depth: PositiveInt | None = None
    beta: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    precision: GraphPrecision = "float32"
    dataset: DatasetConfig | None = None
    calibration_images: PositiveInt = 64
    checked_images: NonNegativeInt = 200
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    test_resize: ResizeConfig | None = None
    replace: bool = False
