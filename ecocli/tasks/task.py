"""What stages ask of a task: its data, samples, table columns, evaluations, results of pictures, and its drawings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.dataset import DatasetConfig, ResizeConfig
from ecocli.config.derive import BoxQualityName, QualityName, TaskName
from ecocli.config.evaluate import MetricName
from ecocli.data.categories import Category
from ecocli.data.images import ImageDataset

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float64, UInt8
    from PIL import Image
    from torch import Tensor

    from ecocli.artifacts.manifest import FileContents
    from ecocli.artifacts.summaries import EvaluationRow
    from ecocli.artifacts.tables import ColumnDoc
    from ecocli.config.evaluate import EvaluateConfig
    from ecocli.config.predict import PredictConfig
    from ecocli.data.checking import SplitReport
    from ecocli.inference.predictor import ImagePrediction
    from ecocli.metrics.exit_table import ExitTable
    from ecocli.metrics.results import ResultTable
    from ecocli.metrics.scorecard import ScoreRow
    from ecocli.scoring.batches import TruthLoader
    from ecocli.scoring.score_stream import Score
    from ecocli.scoring.scored_dataset import ScoringTask
    from ecocli.tasks.photos import PhotoWriter
    from ecocli.training.batches import SampleSource


Size = tuple[int, int]
"""Height and width, in pixels."""


@runtime_checkable
class TaskEvaluation(Protocol):
    """How `eval` scores a split, joins the scores and keeps them.

    Attributes:
        ap_truth: What the AP of masks was measured against, in words; None where it was not.
        image_docs: The task's own columns of the image table.
        class_docs: Columns of the class table.
    """

    scoring: Any
    ap_truth: str | None
    image_docs: Mapping[str, "ColumnDoc"]
    class_docs: Mapping[str, "ColumnDoc"]

    def results(self, scores: Any, exits: int) -> "tuple[ResultTable, Float64[np.ndarray, 'N E']]":
        """Results of every fixed exit, and the quality of each image."""

    def with_all_classes(self, counts: "ResultTable") -> "ResultTable":
        """Results of a derived table, which numbers only classes that occur, by the classes of the model."""

    def gate_quality(self, scores: Any, view: int) -> tuple[Any, float | None]:
        """Quality of the gate's run, and the number of it that gates are judged by."""

    def quality_of(self, table: "ExitTable[Any]") -> "Callable[[Float64[np.ndarray, 'N E']], Any]":
        """Quality of the data set as a function of exit probabilities per image."""

    def summarise(
        self, scores: Any, table: "ExitTable[Any]", rows: "Sequence[ScoreRow[Any]]", *, has_gate: bool
    ) -> "tuple[tuple[EvaluationRow, ...], dict[str, object], pa.Table]":
        """Give the rows of the summary, the task's columns of the image table, and the class table."""

    def predictions(self, scores: Any, task: "ScoringTask", folder: Path) -> "FileContents":
        """Write the predictions of the gate, without one of the deepest exit, for other programs."""

    def post_process(self, prediction: "ImagePrediction") -> None:
        """Do what follows the network on an image, to be timed."""


@runtime_checkable
class TaskPictures(Protocol):
    """Draws what a task predicts."""

    def load_truth(self, dataset: Any, record: Any) -> Any:
        """Load the ground truth of an image."""

    def draw_truth(self, image: "UInt8[np.ndarray, 'H W 3']", truth: Any, scale: int) -> "tuple[Image.Image, str, str]":
        """Draw the truth over its image, enlarged by a whole factor; give it with a title and a note."""

    def draw_prediction(
        self, image: "UInt8[np.ndarray, 'H W 3']", prediction: "ImagePrediction", truth: Any, scale: int
    ) -> "tuple[Image.Image, str]":
        """Draw a prediction over its image; give it with a note on what it is worth."""


@runtime_checkable
class Task(Protocol):
    """A kind of prediction, and all that depends on it; torch is loaded only where something is computed.

    Attributes:
        name: As manifests record it.
        further_metrics: What evaluations may measure beside the task's own metrics.
        predictions_name: File of an evaluation's predictions.
        image_quality: Column of an evaluation's image table; with ``gate_`` before it, that of the gate's run.
        class_quality: Column of its class table.
        annotated_name: What its annotations are of, in the plural.
        photo_outputs: What predictions of pictures may write beside the task's own result and overlays.
        official_package: Computes the task's own metrics too, for whoever wants a second opinion.
        official_tolerance: By how much the two may differ.
    """

    name: TaskName
    further_metrics: tuple[MetricName, ...]
    predictions_name: str
    image_quality: str
    class_quality: str
    annotated_name: str
    photo_outputs: tuple[str, ...]
    official_package: str
    official_tolerance: float

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

    def qualities(
        self, results: Sequence[Sequence[Any]], categories: Sequence[Category]
    ) -> list[dict[str, float | None]]:
        """Quality of some images at each exit, from their results: by name, what gates are judged by first."""

    def evaluation(
        self, config: "EvaluateConfig", dataset: Any, architecture: Any, *, exit_metrics: bool
    ) -> TaskEvaluation:
        """Prepare an evaluation of a split.

        Args:
            exit_metrics: Whether the further metrics are measured at the fixed exits too.

        Raises:
            DataError: The truth of a further metric cannot be read.
        """

    def read_results(self, images: "pa.Table", num_exits: int, num_classes: int) -> "ResultTable":
        """Read results at every exit back out of an evaluation's image table."""

    def official_quality(self, dataset: Any, predictions: Path) -> dict[str, float | None]:
        """Score the predictions that an evaluation wrote by the official package; what gates are judged by first."""

    def pictures(self, architecture: Any, categories: Sequence[Category]) -> TaskPictures:
        """Prepare drawing."""

    def photo_writer(self, config: "PredictConfig", architecture: Any, categories: Sequence[Category]) -> "PhotoWriter":
        """Prepare writing the results of pictures."""

    def check(
        self, dataset: Any, *, sample: int | None, processes: int, advance: Callable[[int], None]
    ) -> "SplitReport":
        """Check every file, id and size of a split; see ``data.checking.check_split``."""

    def timed_post_processing(
        self, architecture: Any, padded: Size, original: Size
    ) -> "Callable[[Mapping[str, Tensor]], None]":
        """What follows the network on every image, for those who time it: from the outputs of its last part."""

    def annotated(self, categories: Sequence[Category]) -> tuple[Category, ...]:
        """Those of a table that the task is about."""

    def published_categories(
        self, said: str | None, architecture: Any, labels: Sequence[str]
    ) -> tuple[tuple[Category, ...], ResizeConfig]:
        """Find what the classes of published weights are, and the size rule of their data set.

        Args:
            said: Name of a table, or an annotation file; None to go by the number of classes.
            labels: Names of the classes, where the weights have them.

        Raises:
            UsageError: It cannot be told.
            DataError: The annotation file is missing or faulty.
        """
