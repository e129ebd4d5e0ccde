"""A whole data set through ``PartScorer``: in parts that processes share and that survive a kill.

A part is a run of planned batches (``ecocli.runtime.parts``). It depends on the data set, the batch size and the part
size, not on the number of processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ecocli.config.dataset import ResizeConfig
from ecocli.data.panoptic import PanopticDataset
from ecocli.inference.postprocess import PanopticRule
from ecocli.inference.predictor import ExitGate
from ecocli.model.contracts import ExitModel
from ecocli.runtime.context import Runtime
from ecocli.runtime.parts import Part, check_stop, compute_parts, read_parts
from ecocli.scoring.batches import iterate_batches, plan_dataset
from ecocli.scoring.part_scorer import PartScorer, ScoringOptions
from ecocli.scoring.scores import PartScores, load_part, merge_parts, save_part

SCORES_FILE = "scores.npz"


@dataclass(frozen=True)
class ScoringTask:
    """What is to be scored.

    Attributes:
        model: In evaluation mode, on the runtime's device.
        gate: The gate to run, or None.
        exit_depths: The fixed exits.
        rule: Panoptic post-processing.
        options: What to score.
        dataset: The labelled images.
        resize: Test-time resize.
        batch_size: Images per batch.
        part_images: Images per part, about.
        keep_predictions: Keep the predicted maps in the parts, as ``<position>.png``.
    """

    model: ExitModel
    gate: ExitGate | None
    exit_depths: tuple[int, ...]
    rule: PanopticRule
    options: ScoringOptions
    dataset: PanopticDataset
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
    batches = plan_dataset(task.dataset, task.resize, task.batch_size)
    step = max(task.part_images // task.batch_size, 1)
    ids = task.dataset.records.image_ids
    parts = []
    for first in range(0, len(batches), step):
        some = tuple(batches[first : first + step])
        images = tuple(ids[position] for batch in some for position in batch)
        parts.append(ScoredPart(folder, f"part-{first:06d}-{first + len(some):06d}", images, some))
    return parts


def score_dataset(task: ScoringTask, folder: Path, runtime: Runtime) -> PartScores | None:
    """Score every image; all processes call this.

    Args:
        task: What is to be scored.
        folder: Keeps finished parts; the same for all processes and after a restart.
        runtime: Where and with whom to run.

    Returns:
        The scores of the whole data set on the main process, None on the others.

    Raises:
        InterruptedRunError: A signal asked to stop; finished parts are kept.
        ArtifactError: A finished part was damaged meanwhile; it is removed.
        DataError: A file of the data set is missing or faulty.
    """
    parts = plan_parts(task, folder)

    def work(part: ScoredPart, place: Path) -> None:
        pictures = place if task.keep_predictions else None
        scorer = PartScorer(task.model, task.gate, task.exit_depths, task.rule, task.options, pictures)
        for batch in iterate_batches(task.dataset, part.batches, task.resize, task.model, runtime.device):
            check_stop(runtime)
            scorer.add(batch)
        save_part(place / SCORES_FILE, scorer.result())

    def open_work() -> Callable[[ScoredPart, Path], None]:
        return work

    compute_parts(parts, open_work, runtime, doing="evaluating", of="evaluation")
    runtime.world.barrier()
    return merge_parts(read_parts(parts, _read)) if runtime.world.is_main else None


def predicted_maps(task: ScoringTask, folder: Path) -> dict[int, Path]:
    """Return the file of each image's predicted map, by position, as ``score_dataset`` left them in its folder."""
    return {
        position: part.path / f"{position}.png"
        for part in plan_parts(task, folder)
        for batch in part.batches
        for position in batch
    }


def _read(part: ScoredPart) -> PartScores:
    scores = load_part(part.path / SCORES_FILE)
    if sorted(scores.positions.tolist()) != sorted(position for batch in part.batches for position in batch):
        raise ValueError(f"it holds {scores.positions.size} images that are not the {len(part.images)} expected")
    return scores
