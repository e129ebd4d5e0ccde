"""From the endless stream of training images to the parts that a process works on.

The stream is one for all processes: step s takes the positions s B .. (s + 1) B - 1 of a batch size B, process r of W
takes every W-th of them, beginning with the r-th, and works through its share in equal parts. Position, not
process or part, decides what an image looks like, which random points its losses use and which branches stochastic
depth takes from it. So dividing a batch otherwise changes nothing but the order of additions, and a resumed run sees
what it would have seen. What a part decides nonetheless, ``loop`` says.
"""

import contextlib
import itertools
import multiprocessing
import multiprocessing.queues
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch.utils.data import DataLoader, Dataset

from ecocli.data.batching import Sample
from ecocli.data.sampler import ShuffledStream
from ecocli.errors import EcoError, InterruptedRunError, UsageError
from ecocli.training.division import BatchDivision


@runtime_checkable
class SampleSource(Protocol):
    """Training images by (epoch, image index), as ``ecocli.data.training.TrainingDataset`` gives them."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def __getitem__(self, key: tuple[int, int], /) -> Sample:
        """Return an image, the same whenever it is asked for."""
        ...


@dataclass(frozen=True)
class TrainingPart:
    """The images that one process works on at once.

    Attributes:
        positions: Position of each in the stream.
    """

    samples: tuple[Sample, ...]
    positions: tuple[int, ...]

    @property
    def image_ids(self) -> list[str]:
        """Name of each image."""
        return [sample.image_id for sample in self.samples]

    @property
    def counts(self) -> list[int]:
        """Number of objects of each image."""
        return [len(sample.labels) for sample in self.samples]


_Key = tuple[int, tuple[int, int]]
# How often the training process looks up while it waits for its loading processes, in seconds.
_POLL_S = 1.0
_CANNOT_SEND = 71
"""Exit status of a loading process that has no place to put an image."""


@dataclass(frozen=True)
class _Parts:
    """The keys of this process's parts, each with its position: what a data loader calls a batch sampler."""

    num_images: int
    seed: int
    division: BatchDivision
    first_step: int
    steps: int

    def __iter__(self) -> Iterator[list[_Key]]:
        division = self.division
        start = self.first_step * division.batch_size
        stream = ShuffledStream(
            self.num_images, self.seed, rank=division.rank, world_size=division.world_size, start=start
        )
        keys = zip(itertools.count(start + division.rank, division.world_size), stream, strict=False)
        for _ in range((self.steps - self.first_step) * division.accumulation):
            yield [next(keys) for _ in range(division.part_size)]


class _PositionedSamples(Dataset[tuple[int, Sample] | EcoError]):
    def __init__(self, samples: SampleSource) -> None:
        self._samples = samples

    def __getitem__(self, item: _Key) -> tuple[int, Sample] | EcoError:
        position, key = item
        try:
            return position, self._samples[key]
        except EcoError as error:
            # Raised again by the training process: raised here, in a worker, it would lose its form.
            return error


def _gather_part(items: list[tuple[int, Sample] | EcoError]) -> TrainingPart | EcoError:
    found: list[tuple[int, Sample]] = []
    for item in items:
        if isinstance(item, EcoError):
            return item
        found.append(item)
    return TrainingPart(tuple(sample for _, sample in found), tuple(position for position, _ in found))


def _ignore_signals(worker: int) -> None:
    # A launcher signals whole process groups; the training process alone decides when its workers stop.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Images are sent by a thread, whose errors nobody would see: the training process would wait for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(  # type: ignore[attr-defined]  # documented hook
        lambda error, item: os._exit(_CANNOT_SEND)
    )


def load_parts(
    samples: SampleSource,
    seed: int,
    division: BatchDivision,
    *,
    first_step: int,
    steps: int,
    workers: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[TrainingPart | EcoError, None, None]:
    """Yield this process's parts of every step, or in place of one the error of an image that cannot be read.

    Close the generator when it is left early: its processes ignore signals and end when they are told to.

    Args:
        steps: Steps of the whole run.
        workers: Processes that load ahead; 0 loads when asked.
        should_stop: Asked while waiting for them; true puts an ``InterruptedRunError`` in the place of a part.
    """
    loader = DataLoader(
        _PositionedSamples(samples),
        batch_sampler=_Parts(len(samples), seed, division, first_step, steps),
        collate_fn=_gather_part,
        num_workers=workers,
        worker_init_fn=_ignore_signals,
    )
    if not workers:
        yield from loader
        return
    others = set(multiprocessing.active_children())
    inbox: queue.Queue[_Fetched] = queue.Queue(1)
    left = threading.Event()
    try:
        try:
            found = iter(loader)
        except OSError as error:
            yield _loading_error(f"cannot be started ({error.strerror or error})")
            return
        thread = threading.Thread(target=_fetch, args=(found, inbox, left), daemon=True)
        thread.start()
        while True:
            try:
                part = inbox.get(timeout=_POLL_S)
            except queue.Empty:
                if should_stop():
                    yield InterruptedRunError("stopped while waiting for the loading processes")
                continue
            if isinstance(part, RuntimeError | OSError | EOFError):
                yield loading_error(part)
                return
            if part is None:
                return
            yield part
    finally:
        left.set()
        # They ignore signals, and one that is stopped or waits for a disk would be waited for in vain.
        _end(process for process in multiprocessing.active_children() if process not in others)


_Fetched = TrainingPart | EcoError | RuntimeError | OSError | EOFError | None


def _fetch(found: Iterator[TrainingPart | EcoError], inbox: "queue.Queue[_Fetched]", left: threading.Event) -> None:
    """Wait for the loading processes in a thread: taking a tensor from one that is stopped blocks for ever."""
    part: _Fetched = None
    ended = False
    while not ended and not left.is_set():
        try:
            part = next(found, None)
            ended = part is None
        except (RuntimeError, OSError, EOFError) as error:
            part, ended = error, True
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                inbox.put(part, timeout=_POLL_S)
                break


def _loading_error(what: str) -> UsageError:
    return UsageError(
        f"A process that loads images {what}. Either memory is short or the shared memory in /dev/shm, which Docker "
        "limits to 64 MB: make it larger (docker run --shm-size=8g or --ipc=host), or load with fewer processes "
        "(--workers, 0 for none). The same command resumes from the state saved last."
    )


def is_loading_error(error: BaseException) -> bool:
    """Tell whether torch reports the end of a loading process: it does so at any moment, out of a signal handler."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def loading_error(error: BaseException) -> UsageError:
    """Return the error for the user in place of torch's."""
    return _loading_error(f"ended ({' '.join(str(error).split())})")


def _end(processes: Iterator[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        while process.is_alive():
            # torch's handler reports every death, these ones too.
            with contextlib.suppress(RuntimeError):
                process.kill()
                process.join(_POLL_S)
