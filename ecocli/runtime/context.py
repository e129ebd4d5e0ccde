"""The one object a stage gets about its surroundings."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ecocli.runtime.distributed import World
from ecocli.runtime.interrupt import StopFlag
from ecocli.runtime.progress import Progress


@dataclass(frozen=True)
class Runtime:
    """Where and with whom a stage runs. Nothing here may change a result.

    Attributes:
        device: A torch device name, such as ``cpu`` or ``cuda:0``.
        world: The processes of this run.
        progress: Progress display on stderr.
        stop: Set when a signal asks for an orderly end.
        log: Writes to stderr.
        threads: CPU threads for computing.
    """

    device: str
    world: World
    progress: Progress
    stop: StopFlag
    log: logging.Logger
    threads: int

    @classmethod
    def quiet(cls) -> Runtime:
        """Make a silent runtime of one process and one thread on the CPU, for tests and library use."""
        log = logging.getLogger("ecocli.quiet")
        if not log.handlers:
            log.addHandler(logging.NullHandler())
        return cls("cpu", World(), Progress(enabled=False), StopFlag(), log, threads=1)

    def should_stop(self) -> bool:
        """Tell whether any process was asked to stop. All processes must call it at the same point."""
        return self.world.any(self.stop.requested)
