"""The loss that the settings ask for."""

from ecocli.config.train_parent import LossConfig, SetLossConfig
from ecocli.training.detection_objective import DetectionObjective
from ecocli.training.objective import Objective
from ecocli.training.panoptic_objective import PanopticObjective


def make_objective(config: LossConfig | SetLossConfig, num_classes: int) -> Objective:
    """Build the loss of a task from its settings."""
    return (
        DetectionObjective(config, num_classes)
        if isinstance(config, SetLossConfig)
        else PanopticObjective(config, num_classes)
    )
