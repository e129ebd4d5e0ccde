"""Predictions for a user's own images: what their task writes, and pictures of it.

Inputs: ``parent``; ``gate``, optional. Nothing goes into the store. Processes share the images; a file that cannot be
read is reported and left out.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ecocli.artifacts.lineage import exit_of, open_gate
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.config.predict import PredictConfig
from ecocli.data.photos import find_photos, read_photo
from ecocli.errors import DataError, InterruptedRunError, UsageError
from ecocli.inference.opening import exported_model, open_predictor
from ecocli.inference.photos import PhotoPredictor
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import check_output, drop_unfinished, storage_errors, user_path
from ecocli.runtime.interrupt import StopNowError
from ecocli.tasks.photos import ANOTHER_FOLDER, Photo, PhotoResult
from ecocli.tasks.registry import task_of

STAGE = "predict"


@dataclass(frozen=True)
class PredictReport:
    """What a run has done.

    Attributes:
        found_name: What was looked for, in the plural.
        main: The JSON file of everything found.
        failures: Message for every image that could not be read.
        found: Number of images asked for.
    """

    out: Path
    found_name: str
    main: Path
    photos: tuple[PhotoResult, ...]
    failures: tuple[str, ...]
    found: int

    def check(self) -> None:
        """Raise for what was left out, once everything else is written and printed.

        Raises:
            DataError: Some image could not be read.
            InterruptedRunError: A signal stopped the run before the last image.
        """
        if len(self.photos) + len(self.failures) < self.found:
            raise InterruptedRunError(
                f"Stopped after {len(self.photos)} of {self.found} images; their results are in {self.out}. Run the "
                "same command again for all of them."
            )
        _check_all_read(self.failures, self.found)


@dataclass(frozen=True)
class PredictPlan:
    """What is to be predicted with what, all of it found to fit together."""

    paths: tuple[Path, ...]
    open_model: Callable[[Runtime], PhotoPredictor]

    def check(self) -> None:
        """Raise what a run raises for images that are not there, once it has predicted the others.

        Raises:
            DataError: Some image is missing.
        """
        failures = []
        for path in self.paths:
            if not path.exists():
                try:
                    read_photo(path)
                except DataError as error:
                    failures.append(str(error))
        _check_all_read(failures, len(self.paths))


def _check_all_read(failures: Sequence[str], found: int) -> None:
    if failures:
        raise DataError(f"{len(failures)} of {found} images could not be read and were left out. " + " ".join(failures))


def plan(config: PredictConfig, inputs: Mapping[str, str], store: Store) -> PredictPlan:
    """Open what is needed, and refuse what the run would refuse.

    Args:
        inputs: Digest of the ``parent``, and of the ``gate`` if it shall choose exits; none for exported graphs.

    Raises:
        ArtifactError: Parent, gate or plan of the graphs are damaged or do not fit.
        DataError: There is no image, or no folder of graphs.
        UsageError: The folder cannot be written, there is no such exit, the gate cannot choose at this price, or the
            model has no such output.
    """
    out = user_path(config.out)
    check_output(out, ANOTHER_FOLDER)
    if config.exported is not None:
        opened = exported_model(
            user_path(config.exported), config.exit_depth, config.beta, engine=config.engine, resize=config.test_resize
        )
        return PredictPlan(tuple(find_photos(config.images, out)), lambda runtime: opened(runtime.threads))
    parent = store.get(inputs["parent"], ParentManifest)
    architecture = parent.manifest.architecture
    outputs = task_of(architecture).photo_outputs
    if strange := [name for name in ("semantic", "instances") if getattr(config, name) and name not in outputs]:
        raise UsageError(
            f"{architecture.name} predicts no masks, so there is nothing to write for {' and '.join(strange)}. Leave "
            f"--{' and --'.join(strange)} out."
        )
    exit_depth = exit_of(parent.manifest, config.exit_depth)
    gate = open_gate(store, inputs["gate"], parent, config.beta) if "gate" in inputs else None

    def open_model(runtime: Runtime) -> PhotoPredictor:
        return open_predictor(
            parent,
            gate,
            exit_depth,
            runtime.device,
            beta=config.beta,
            precision=config.precision,
            compile_warning=runtime.log.warning if config.execution.compile else None,
            resize=config.test_resize,
        )

    return PredictPlan(tuple(find_photos(config.images, out)), open_model)


def run(config: PredictConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> PredictReport:
    """Predict images and write the results.

    Returns:
        What was written; its ``check`` raises for what was left out.

    Raises:
        ArtifactError: Parent, gate or graphs are damaged or do not fit.
        DataError: There is no image, or the folder of graphs is incomplete.
        UsageError: The parent has no such exit, or the folder cannot be written.
    """
    planned = plan(config, inputs, store)
    paths, names = planned.paths, unique_names(planned.paths)
    predictor = planned.open_model(runtime)
    out, world = user_path(config.out), runtime.world
    if out.is_dir():
        for folder in (out, *(path for path in out.iterdir() if path.is_dir())):
            drop_unfinished(folder)
    writer = task_of(predictor.architecture).photo_writer(config, predictor.architecture, predictor.categories)
    mine = range(world.rank, len(paths), world.world_size)
    photos: list[PhotoResult] = []
    failures: list[tuple[int, str]] = []
    with runtime.stop.orderly(), runtime.progress.task("predicting", total=len(mine), unit="image") as task:
        for index in mine:
            if runtime.stop.requested:
                break
            with suppress(StopNowError), runtime.stop.interruptible(), storage_errors(out, ANOTHER_FOLDER):
                try:
                    image = read_photo(paths[index], config.max_pixels)
                except DataError as error:
                    runtime.log.error("%s It is left out.", error)
                    failures.append((index, str(error)))
                else:
                    prediction = predictor.predict(image, str(index + 1))
                    photos.append(writer.write(Photo(image, index + 1, paths[index], out, names[index]), prediction))
                task.advance()
    gathered = world.gather_objects((photos, failures))
    everything = sorted((photo for part, _ in gathered for photo in part), key=lambda photo: photo.image_id)
    messages = tuple(text for _, text in sorted(failure for _, part in gathered for failure in part))
    if world.is_main and everything:
        with storage_errors(out, ANOTHER_FOLDER):
            writer.write_json(out, everything)
    return PredictReport(out, writer.found_name, out / writer.main_name, tuple(everything), messages, len(paths))


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A file name without suffix for every image; equal stems get numbers."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        names.append(name)
    return names
