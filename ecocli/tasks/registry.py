"""Which task a model is for."""

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.derive import TaskName
from ecocli.tasks.detection import DetectionTask
from ecocli.tasks.panoptic import PanopticTask
from ecocli.tasks.task import Task

_TASKS: dict[str, Task] = {"mask2former": PanopticTask(), "maskformer": PanopticTask(), "detr": DetectionTask()}


def task_of(architecture: AnyArchitecture) -> Task:
    """Give the task of an architecture."""
    return _TASKS[architecture.kind]


def task_named(name: TaskName) -> Task:
    """Give the task that a manifest names."""
    return next(task for task in _TASKS.values() if task.name == name)
