"""The log: plain lines on stderr, from the main process; other processes report warnings only."""

from __future__ import annotations

import logging

from ecocli.runtime.distributed import World
from ecocli.runtime.formats import plain_text
from ecocli.runtime.streams import write_stderr

LOGGER_NAME = "ecocli"


class _StderrHandler(logging.Handler):
    """Writes to the stderr of the moment, which a progress bar replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write_stderr(self.format(record) + "\n")
        except Exception:  # no record may end the run
            self.handleError(record)


class _LineFormatter(logging.Formatter):
    def __init__(self, prefix: str) -> None:
        super().__init__("%(message)s")
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        label = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{self._prefix}{label}{plain_text(super().format(record))}"


def configure_logging(world: World) -> logging.Logger:
    """Send the package's log to stderr and return its logger.

    Rank 0 reports what happens, the others only warnings, with their rank in front. Calling it again replaces
    the handler of the former call.
    """
    logger = logging.getLogger(LOGGER_NAME)
    handler = _StderrHandler()
    handler.setFormatter(_LineFormatter("" if world.is_main else f"[rank {world.rank}] "))
    for former in [h for h in logger.handlers if isinstance(h, _StderrHandler)]:
        logger.removeHandler(former)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if world.is_main else logging.WARNING)
    return logger
