"""What an evaluation is about, all of it opened and found to fit together."""

from dataclasses import dataclass

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import DerivedManifest, GateManifest, ParentManifest
from ecocli.config.any_architecture import require_segmentation
from ecocli.config.architecture import ArchitectureConfig
from ecocli.data.panoptic import PanopticDataset


@dataclass(frozen=True)
class EvaluationSubject:
    """What is evaluated on what.

    Attributes:
        parent: The model.
        gate: Chooses exits; None for the fixed exits alone.
        dataset: The images.
        mirror: Tells what each exit is worth on the mirror images; None where that is not known.
        derived: Tells the fixed exits' counts where only the gate is run; None where every exit is.
    """

    parent: Artifact[ParentManifest]
    gate: Artifact[GateManifest] | None
    dataset: PanopticDataset
    derived: Artifact[DerivedManifest] | None
    mirror: Artifact[DerivedManifest] | None

    @property
    def architecture(self) -> ArchitectureConfig:
        """The parent's."""
        return require_segmentation(self.parent.manifest.architecture, "eval")
