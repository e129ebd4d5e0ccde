"""Settings of Step B: which images are measured, and how the work is cut."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from ecocli.config.base import Config
from ecocli.config.dataset import DatasetConfig
from ecocli.config.precision import InferencePrecision

BoxQualityName = Literal["ap", "box_pq", "loss"]
QualityName = Literal["pq", "ap", "box_pq", "loss"]
TaskName = Literal["panoptic", "detection"]


class DeriveExecutionConfig(Config):
    """How the work is done. Nothing here is part of an artifact's identity.

    Attributes:
        part_images: Images between two saved states, about.
        score_threads: Threads that post-process and score while the network computes the next batch; None for as many
            as the run has.
        compile: Let torch compile the backbone where a compiler is there.
    """

    part_images: PositiveInt = 256
    score_threads: PositiveInt | None = None
    compile: bool = False


class DeriveConfig(Config):
    """Everything the derivation needs beside the parent.

    Attributes:
        dataset: The data.
        splits: Splits to measure, one table each.
        mirror: Measure each image's mirror image too: more rows to fit on, and a yardstick for gates without luck.
        batch_size: Images per batch; it decides the last digits of floating-point results.
        precision: Type of the network's products.
        box_quality: What the quality of one image is to a detector: ``ap``, COCO's AP of the image alone; ``box_pq``,
            panoptic quality of boxes, which punishes every false alarm; ``loss``, minus the set loss over its mean.
        execution: How the work is done; no part of the serialised settings.
    """

    dataset: DatasetConfig
    splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("train", "val")
    mirror: bool = False
    batch_size: PositiveInt = 4
    precision: InferencePrecision = "float32"
    box_quality: BoxQualityName = "ap"
    execution: DeriveExecutionConfig = Field(default=DeriveExecutionConfig(), exclude=True)

    @model_validator(mode="after")
    def _splits_differ(self) -> "DeriveConfig":
        if len(set(self.splits)) != len(self.splits):
            raise ValueError(f"splits must differ; found {', '.join(self.splits)}")
        return self
