"""What stages ask of a task: its data, its training samples, and what the derived table keeps of its predictions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.dataset import DatasetConfig
from ecocli.config.derive import BoxQualityName, QualityName, TaskName
from ecocli.data.categories import Category
from ecocli.data.images import ImageDataset

if TYPE_CHECKING:
    from ecocli.scoring.batches import TruthLoader
    from ecocli.scoring.score_stream import Score
    from ecocli.training.batches import SampleSource


@runtime_checkable
class Task(Protocol):
    """A kind of prediction, and all that depends on it; torch is loaded only where something is computed.

    Attributes:
        name: As manifests record it.
    """

    name: TaskName

    def open(
        self,
        config: DatasetConfig,
        split: str,
        *,
        advance: Callable[[int], None] | None = None,
        check_files: bool = True,
    ) -> ImageDataset:
        """Open a split with the task's truth; see ``data.datasets.open_dataset``."""

    def num_classes(self, architecture: AnyArchitecture, categories: Sequence[Category]) -> int:
        """Classes of a model of this architecture trained on these categories."""

    def samples(self, dataset: Any, num_classes: int, config: DatasetConfig, seed: int) -> "SampleSource":
        """Training images by (epoch, image index)."""

    def quality(self, asked: BoxQualityName) -> QualityName:
        """Name of the quality of one image that tables keep."""

    def scorer(
        self, architecture: Any, categories: Sequence[Category], quality: BoxQualityName
    ) -> tuple["Score", "TruthLoader"]:
        """What scores a prediction against the truth of its image, and what loads that truth."""

    def mirror(self, truth: Any, width: int) -> Any:
        """The truth of the mirror image, from that of an image of some width in pixels."""

    def columns(self, results: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Columns of the derived table from the results of images at their exits."""
