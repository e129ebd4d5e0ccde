"""Settings of an evaluation: which data, which metrics, and what is written."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from ecocli.config.base import Config
from ecocli.config.dataset import DatasetConfig
from ecocli.config.exported import GraphsConfig
from ecocli.config.precision import InferencePrecision
from ecocli.config.rules import RulesName, rules_of

MetricName = Literal["miou", "ap"]


def _rules_of_dataset(validated: dict[str, Any]) -> RulesName:
    dataset = validated.get("dataset")
    return rules_of(dataset.name if isinstance(dataset, DatasetConfig) else "")


class EvaluateExecutionConfig(Config):
    """How the work is done. Nothing here is part of an artifact's identity.

    Attributes:
        timed_images: Images on which milliseconds are measured; 0 measures none.
        part_images: Images between two saved states, about.
        compile: Let torch compile the backbone where a compiler is there.
    """

    timed_images: NonNegativeInt = 16
    part_images: PositiveInt = 64
    compile: bool = False


class EvaluateConfig(Config):
    """Everything an evaluation needs.

    Attributes:
        dataset: The data.
        split: The split to evaluate on.
        beta: Price of compute for a gate that predicts quality; None for the one it was fitted at.
        batch_size: Images per batch; it decides the last digits of floating-point results.
        precision: Type of the network's products in torch.
        graphs: Exported graphs to evaluate instead of the parent's modules.
        metrics: Metrics beside the task's own; a detector has none.
        rules: Whose rules mIoU and the AP of masks follow. Unless told otherwise ``cityscapes`` on the data set of that
            name, ``coco`` on any other.
        every_exit: Run the network at every fixed exit, so that every metric has its control. Without it the network
            runs at the gate's exits alone, and the controls' quality comes from the derived table.
        predictions: Keep the predictions.
        max_instances: Instances per image for AP.
        bootstrap_replicates: Resamplings of the images behind the gate's interval.
        seed: Seed of the resampling.
        execution: How the work is done; no part of the serialised settings.
    """

    dataset: DatasetConfig
    split: str = "val"
    beta: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    batch_size: PositiveInt = 4
    precision: InferencePrecision = "float32"
    graphs: GraphsConfig | None = None
    metrics: tuple[MetricName, ...] = ("miou", "ap")
    rules: RulesName = Field(default_factory=_rules_of_dataset)
    every_exit: bool = True
    predictions: bool = True
    max_instances: PositiveInt = 100
    bootstrap_replicates: Annotated[int, Field(ge=10, le=100_000)] = 1000
    seed: NonNegativeInt = 0
    execution: EvaluateExecutionConfig = Field(default=EvaluateExecutionConfig(), exclude=True)

    @property
    def wants_instance_file(self) -> bool:
        """Whether AP is measured against the instance annotations of a data set that has them, as only COCO's rules do.

        Their masks may overlap, and they do not say what is unlabelled.
        """
        return "ap" in self.metrics and self.rules == "coco"
