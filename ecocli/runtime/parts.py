"""Finished parts of long work: shared by processes, kept over kills, and checked before they become content.

A part is a sealed folder (``ecocli.runtime.files``) inside the folder of its run. Its seal names the run, the part and
the images, so that neither damage nor another part in its place is taken for it. What disagrees is dropped with a
warning and computed again.
"""

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ecocli.errors import ArtifactError, InterruptedRunError
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import check_seal, drop_unfinished, sealing
from ecocli.runtime.interrupt import StopNowError

_log = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")
PartT = TypeVar("PartT", bound="Part")


@dataclass(frozen=True)
class Part:
    """Some images that are worked on together.

    Attributes:
        folder: The folder of the run, named by the run's identity.
        name: The part's name, the same on every process and after every restart.
    """

    folder: Path
    name: str
    images: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the finished part is."""
        return self.folder / self.name

    @property
    def is_finished(self) -> bool:
        """Whether it is there; ``check`` tells whether it is intact."""
        return self.path.is_dir() or self.path.is_symlink()

    @property
    def holds(self) -> str:
        """What its seal must say."""
        listed = hashlib.sha256("\n".join(self.images).encode(errors="surrogatepass")).hexdigest()
        return f"{self.folder.name}/{self.name}, {len(self.images)} images {listed}"

    def check(self) -> None:
        """Make sure that it is exactly what was written.

        Raises:
            ValueError: It is not.
            OSError: It cannot be read.
        """
        check_seal(self.path, self.holds)

    def drop(self) -> None:
        """Remove it."""
        if self.path.is_symlink() or not self.path.is_dir():
            self.path.unlink(missing_ok=True)
        else:
            shutil.rmtree(self.path)


def compute_parts(
    parts: Sequence[PartT],
    open_work: Callable[[], Callable[[PartT, Path], None]],
    runtime: Runtime,
    *,
    doing: str,
    of: str,
) -> None:
    """Compute what is not there intact; all processes of the run call this.

    Args:
        parts: The parts, the same on every process.
        open_work: Called once if anything is left; returns what computes one part into an empty folder.
        doing: The work as a participle, for the progress display.
        of: What the parts are parts of, for the message.

    Raises:
        InterruptedRunError: A signal asked to stop; finished parts are kept.
        UsageError: The file system refuses.
    """
    world = runtime.world
    # Looked at once, by one process: all must agree on what is left to do.
    left = [parts[index] for index in world.broadcast_object(_left(parts) if world.is_main else [])]
    if not left:
        return
    work = open_work()
    total = sum(len(part.images) for part in parts)
    done = total - sum(len(part.images) for part in left)
    with runtime.stop.orderly(), runtime.progress.task(doing, total, unit="image", completed=done) as progress:
        for start in range(0, len(left), world.world_size):
            turn = left[start : start + world.world_size]
            if world.rank < len(turn):
                part = turn[world.rank]
                # A part that is stopped is left out as a whole.
                leaving, making = contextlib.suppress(StopNowError), sealing(part.path, part.holds)
                with leaving, making as place, runtime.stop.interruptible():
                    work(part, place)
            # The signal may reach one process first: all stop after the same turn.
            if runtime.should_stop():
                kept = sum(part.is_finished for part in parts)
                if kept < len(parts):
                    raise InterruptedRunError(
                        f"Stopped by {runtime.stop.reason or 'another process'} after {kept} of {len(parts)} parts of "
                        f"the {of}; "
                        + (
                            "they are kept. The same command resumes from here."
                            if kept
                            else "the same command begins anew."
                        )
                    )
            progress.advance(sum(len(part.images) for part in turn))


def _left(parts: Sequence[Part]) -> list[int]:
    left = []
    for folder in {part.folder for part in parts}:
        drop_unfinished(folder)
    for index, part in enumerate(parts):
        try:
            if part.is_finished:
                part.check()
                continue
        except (OSError, ValueError) as error:
            _log.warning("The finished part %s is damaged (%s). It is dropped and computed again.", part.path, error)
            part.drop()
        left.append(index)
    return left


def read_parts(parts: Sequence[PartT], read: Callable[[PartT], ResultT]) -> list[ResultT]:
    """Read finished parts, each checked once more.

    Args:
        parts: The parts.
        read: Reads one; a ``ValueError`` or ``ArtifactError`` of it means that the part is not what it should be.

    Raises:
        ArtifactError: A part disagrees; it is removed, so that the same command computes it again.
    """
    results = []
    for part in parts:
        try:
            part.check()
            results.append(read(part))
        except (OSError, ValueError, KeyError, ArtifactError) as error:
            part.drop()
            raise ArtifactError(
                f"The finished part {part.path} is damaged ({error}). It was removed: give the same command again to "
                "compute it anew."
            ) from error
    return results
