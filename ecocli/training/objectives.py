"""The loss that the settings ask for."""

from collections.abc import Callable, Mapping
from typing import Any

from ecocli.config.base import Config
from ecocli.config.train_parent import AnyLoss, LossConfig, SetLossConfig
from ecocli.training.detection_objective import DetectionObjective
from ecocli.training.objective import Objective
from ecocli.training.panoptic_objective import PanopticObjective

_OBJECTIVES: Mapping[type[Config], Callable[[Any, int], Objective]] = {
    LossConfig: PanopticObjective,
    SetLossConfig: DetectionObjective,
}


def make_objective(config: AnyLoss, num_classes: int) -> Objective:
    """Build the loss that the settings are of."""
    return _OBJECTIVES[type(config)](config, num_classes)
