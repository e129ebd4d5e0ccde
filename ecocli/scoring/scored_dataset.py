"""A whole data set through the scorer of its task: in parts that processes share and that survive a kill.

A part is a run of planned batches (``ecocli.runtime.parts``). It depends on the data set, the batch size and the part
size, not on the number of processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from ecocli.config.dataset import ResizeConfig
from ecocli.data.images import ImageDataset
from ecocli.inference.predictor import ExitGate
from ecocli.model.contracts import ExitModel
from ecocli.runtime.context import Runtime
from ecocli.runtime.parts import Part, compute_parts, read_parts
from ecocli.scoring.batches import LabelledBatch, iterate_batches, plan_dataset
from ecocli.scoring.scores import Scores, load_scores, save_scores

SCORES_FILE = "scores.npz"
ScoresT = TypeVar("ScoresT", bound=Scores)


@runtime_checkable
class Scorer(Protocol):
    """Scores batches one after the other."""

    def add(self, batch: LabelledBatch) -> None:
        """Predict and score one batch.

        Raises:
            DataError: A ground truth contradicts itself.
        """

    def result(self) -> Any:
        """Return the scores of all batches added."""


@runtime_checkable
class Scoring(Protocol[ScoresT]):
    """How a task scores a data set.

    Attributes:
        kind: Class of its scores: a dataclass of arrays, and of dataclasses of arrays.
    """

    @property
    def kind(self) -> type[ScoresT]: ...

    def truth(self, dataset: Any, record: Any) -> Any:
        """Load the ground truth of an image."""

    def scorer(self, task: "ScoringTask", picture_folder: Path | None) -> Scorer:
        """Begin a part; predicted pictures go to the folder, where there is one."""

    def merge(self, parts: Sequence[ScoresT]) -> ScoresT:
        """Join parts, at least one, in the order of the data set."""


@dataclass(frozen=True)
class ScoringTask:
    """What is to be scored.

    Attributes:
        model: In evaluation mode, on the runtime's device.
        gate: The gate to run, or None.
        every_exit: Run every fixed exit, not the gate alone.
        part_images: Images per part, about.
        keep_predictions: Keep the predictions of the gate, without one of the deepest exit.
    """

    model: ExitModel
    gate: ExitGate | None
    exit_depths: tuple[int, ...]
    every_exit: bool
    dataset: ImageDataset
    resize: ResizeConfig
    batch_size: int
    part_images: int
    keep_predictions: bool


@dataclass(frozen=True)
class ScoredPart(Part):
    """Some batches of the data set.

    Attributes:
        batches: Positions in the data set, batch by batch.
    """

    batches: tuple[tuple[int, ...], ...]


def plan_parts(task: ScoringTask, folder: Path) -> list[ScoredPart]:
    """Cut the data set into parts; the same on every process and after every restart."""
    batches = plan_dataset(task.dataset, task.resize, task.batch_size, task.model.size_divisor)
    step = max(task.part_images // task.batch_size, 1)
    ids = task.dataset.records.image_ids
    parts = []
    for first in range(0, len(batches), step):
        some = tuple(batches[first : first + step])
        images = tuple(ids[position] for batch in some for position in batch)
        parts.append(ScoredPart(folder, f"part-{first:06d}-{first + len(some):06d}", images, some))
    return parts


def score_dataset(task: ScoringTask, scoring: Scoring[ScoresT], folder: Path, runtime: Runtime) -> ScoresT | None:
    """Score every image; all processes call this.

    Args:
        folder: Keeps finished parts; the same for all processes and after a restart.

    Returns:
        The scores of the whole data set on the main process, None on the others.

    Raises:
        InterruptedRunError: A signal asked to stop; finished parts are kept.
        ArtifactError: A finished part was damaged meanwhile; it is removed.
        DataError: A file of the data set is missing or faulty.
    """
    parts = plan_parts(task, folder)

    def work(part: ScoredPart, place: Path) -> None:
        scorer = scoring.scorer(task, place if task.keep_predictions else None)
        batches = iterate_batches(task.dataset, part.batches, task.resize, task.model, runtime.device, scoring.truth)
        for batch in batches:
            runtime.stop.check()
            scorer.add(batch)
        save_scores(place / SCORES_FILE, scorer.result())

    def open_work() -> Callable[[ScoredPart, Path], None]:
        return work

    def read(part: ScoredPart) -> ScoresT:
        scores = load_scores(part.path / SCORES_FILE, scoring.kind)
        if sorted(scores.positions.tolist()) != sorted(position for batch in part.batches for position in batch):
            raise ValueError(f"it holds {scores.positions.size} images that are not the {len(part.images)} expected")
        return scores

    compute_parts(parts, open_work, runtime, doing="evaluating", of="evaluation")
    runtime.world.barrier()
    return scoring.merge(read_parts(parts, read)) if runtime.world.is_main else None


def predicted_maps(task: ScoringTask, folder: Path) -> dict[int, Path]:
    """Return the file of each image's predicted map, by position, as ``score_dataset`` left them in its folder."""
    return {
        position: part.path / f"{position}.png"
        for part in plan_parts(task, folder)
        for batch in part.batches
        for position in batch
    }
