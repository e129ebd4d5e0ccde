"""Settings of a profile: which model, which image sizes, which convention, and how times are measured."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.base import Config
from ecocli.config.dataset import DatasetConfig
from ecocli.config.exported import GraphsConfig
from ecocli.config.precision import InferencePrecision

Size = tuple[PositiveInt, PositiveInt]
ConventionName = Literal["paper", "all"]


class ProfileExecutionConfig(Config):
    """How times are measured. Times belong to a machine, so nothing here is part of an artifact's identity.

    Attributes:
        latency: Whether to measure milliseconds at all.
        repetitions: Measured runs of every exit, after the warm-up.
        warm_up: Runs of every exit that do not count.
        batch_size: Images per run; milliseconds are given per image.
        compile: Let torch compile the backbone where a compiler is there.
    """

    latency: bool = False
    repetitions: Annotated[int, Field(ge=2)] = 10
    warm_up: NonNegativeInt = 2
    batch_size: PositiveInt = 1
    compile: bool = False


class ProfileModelConfig(Config):
    """Everything a profile needs.

    Attributes:
        architecture: The model, where no parent is profiled.
        exit_depths: Exits to show, in encoder layers run; empty for the parent's own.
        dataset: Average over this data set's validation images.
        sizes: Or these image sizes one by one, height and width in pixels, taken as they are without resizing.
        convention: What counts as an operation: as published, or with what published figures leave out.
        precision: Type of the network's products where times are measured; no part of the serialised settings.
        graphs: Exported graphs to time instead of torch; no part of the serialised settings.
        execution: How times are measured; no part of the serialised settings.
    """

    architecture: AnyArchitecture | None = None
    exit_depths: tuple[PositiveInt, ...] = ()
    dataset: DatasetConfig | None = None
    sizes: tuple[Size, ...] = ()
    convention: ConventionName = "paper"
    precision: InferencePrecision = Field(default="float32", exclude=True)
    graphs: GraphsConfig | None = Field(default=None, exclude=True)
    execution: ProfileExecutionConfig = Field(default=ProfileExecutionConfig(), exclude=True)

    @model_validator(mode="after")
    def _one_source_of_sizes(self) -> "ProfileModelConfig":
        if (self.dataset is None) == (not self.sizes):
            raise ValueError("give either a data set (--dataset) or image sizes (--size)")
        return self

    @model_validator(mode="after")
    def _exits_fit(self) -> "ProfileModelConfig":
        if self.architecture is not None:
            self.architecture.exits.check(self.exit_depths)
        if tuple(sorted(set(self.exit_depths))) != self.exit_depths:
            raise ValueError("exit_depths must ascend")
        return self
