"""A whole data set through ``PartScorer``: in parts that processes share and that survive a kill.

A part is a run of planned batches. It depends on the data set, the batch size and the part size, not on the number of
processes; each is one file, written when finished. Process r of W takes parts r, r + W, ... A second start finds the
finished files and goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ecocli.config.dataset import ResizeConfig
from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import InterruptedRunError
from ecocli.inference.postprocess import PanopticRule
from ecocli.inference.predictor import ExitGate
from ecocli.model.contracts import ExitModel
from ecocli.runtime.context import Runtime
from ecocli.scoring.batches import iterate_batches, plan_dataset
from ecocli.scoring.part_scorer import PartScorer, ScoringOptions
from ecocli.scoring.scores import PartScores, load_part, merge_parts, save_part

PNG_FOLDER = "predictions"


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
        keep_predictions: Write the predicted maps to the folder ``predictions`` as ``<position>.png``.
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
        DataError: A file of the data set is missing or faulty.
    """
    batches = plan_dataset(task.dataset, task.resize, task.batch_size)
    parts = _parts(batches, max(task.part_images // task.batch_size, 1))
    files = [folder / f"part-{first:06d}-{first + len(part):06d}.npz" for first, part in parts]
    png_folder = folder / PNG_FOLDER if task.keep_predictions else None
    if png_folder is not None:
        png_folder.mkdir(parents=True, exist_ok=True)
    world = runtime.world
    # Seen once, by one process: all must agree on what is left to do.
    finished = world.broadcast_object([file.exists() for file in files])
    left = [index for index, done in enumerate(finished) if not done]
    sizes = [sum(len(batch) for batch in part) for _, part in parts]
    done_images = sum(sizes) - sum(sizes[index] for index in left)
    with runtime.progress.task("evaluating", len(task.dataset), unit="image", completed=done_images) as progress:
        for start in range(0, len(left), world.world_size):
            turn = left[start : start + world.world_size]
            if world.rank < len(turn):
                index = turn[world.rank]
                save_part(files[index], _score_part(task, parts[index][1], png_folder, runtime.device))
            # The signal may reach one process first: all stop after the same turn.
            stop = runtime.should_stop()
            progress.advance(sum(sizes[index] for index in turn))
            if stop and start + world.world_size < len(left):
                raise InterruptedRunError(
                    f"Stopped by {runtime.stop.reason or 'another process'} after {start + len(turn)} of {len(left)} "
                    "parts of the evaluation; they are kept. The same command goes on from here."
                )
    world.barrier()
    return merge_parts([load_part(file) for file in files]) if world.is_main else None


def _parts(batches: Sequence[tuple[int, ...]], batches_per_part: int) -> list[tuple[int, Sequence[tuple[int, ...]]]]:
    """Cut the batches into parts, each with the number of its first batch."""
    return [(first, batches[first : first + batches_per_part]) for first in range(0, len(batches), batches_per_part)]


def _score_part(
    task: ScoringTask, batches: Sequence[Sequence[int]], png_folder: Path | None, device: str
) -> PartScores:
    scorer = PartScorer(task.model, task.gate, task.exit_depths, task.rule, task.options, png_folder)
    for batch in iterate_batches(task.dataset, batches, task.resize, task.model, device):
        scorer.add(batch)
    return scorer.result()
