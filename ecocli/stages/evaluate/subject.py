"""What an evaluation is about, all of it opened and found to fit together."""

from dataclasses import dataclass

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import DerivedManifest, GateManifest, ParentManifest
from ecocli.config.any_architecture import AnyArchitecture
from ecocli.data.images import ImageDataset
from ecocli.tasks.registry import task_of
from ecocli.tasks.task import Task


@dataclass(frozen=True)
class EvaluationSubject:
    """What is evaluated on what.

    Attributes:
        gate: Chooses exits; None for the fixed exits alone.
        exit_depths: The fixed exits: the parent's, or those that the graphs have.
        mirror: Tells what each exit is worth on the mirror images; None where that is not known.
        derived: Tells the fixed exits' results where only the gate is run; None where every exit is.
    """

    parent: Artifact[ParentManifest]
    gate: Artifact[GateManifest] | None
    dataset: ImageDataset
    exit_depths: tuple[int, ...]
    derived: Artifact[DerivedManifest] | None
    mirror: Artifact[DerivedManifest] | None

    @property
    def architecture(self) -> AnyArchitecture:
        """The parent's."""
        return self.parent.manifest.architecture

    @property
    def task(self) -> Task:
        """The parent's."""
        return task_of(self.architecture)
