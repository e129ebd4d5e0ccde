"""Settings of ``eco predict``."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from ecocli.config.base import Config
from ecocli.config.dataset import ResizeConfig
from ecocli.config.precision import InferencePrecision


class PredictExecutionConfig(Config):
    """How the work is done.

    Attributes:
        compile: Let torch compile the backbone where a compiler is there.
    """

    compile: bool = False


class PredictConfig(Config):
    """What to predict and what to write.

    Attributes:
        images: Files, folders (with all below them) and patterns such as ``photos/*.jpg``.
        out: Folder for the results.
        exit_depth: Encoder layers run for every image; None for the gate's choice, without a gate the deepest exit.
        beta: Price of compute for a gate that predicts quality; None for the one it was fitted at.
        overlays: Write pictures with coloured segments and class names.
        semantic: Write the best category of every pixel.
        instances: Write scored instances in COCO's result format.
        max_instances: Instances per image at most.
        test_resize: How images are resized for the network; None for the parent's own rule.
        precision: Type of the network's products.
        exported: Folder of graphs to run instead of a parent of the store.
        engine: What runs that folder; None for the engine of its format.
        execution: How the work is done.
        max_pixels: Larger images are left out; memory grows with the size of an image.
    """

    images: Annotated[tuple[str, ...], Field(min_length=1)]
    out: str = "predictions"
    exit_depth: PositiveInt | None = None
    beta: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    overlays: bool = True
    semantic: bool = False
    instances: bool = False
    max_instances: PositiveInt = 100
    test_resize: ResizeConfig | None = None
    precision: InferencePrecision = "float32"
    exported: str | None = None
    engine: Literal["onnxruntime", "openvino"] | None = None
    execution: PredictExecutionConfig = PredictExecutionConfig()
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = 67_108_864
