"""Which task a model is for."""

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.tasks.detection import DetectionTask
from ecocli.tasks.panoptic import PanopticTask
from ecocli.tasks.task import Task

_TASKS: dict[str, Task] = {"mask2former": PanopticTask(), "detr": DetectionTask()}


def task_of(architecture: AnyArchitecture) -> Task:
    """Give the task of an architecture."""
    return _TASKS[architecture.kind]
