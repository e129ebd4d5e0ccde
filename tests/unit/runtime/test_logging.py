"""The log on stderr. Expected lines are worked by hand."""

import logging
from collections.abc import Iterator

import pytest

from ecocli.runtime.distributed import World
from ecocli.runtime.logging import LOGGER_NAME, configure_logging


@pytest.fixture(autouse=True)
def _restored_logger() -> Iterator[None]:
    logger = logging.getLogger(LOGGER_NAME)
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_configure_logging__main_process__writes_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log = configure_logging(World())
    log.info("took %s", "sha256:12")
    logging.getLogger("ecocli.artifacts.store").warning("slow disk")
    log.debug("hidden")
    assert capsys.readouterr() == ("", "took sha256:12\nwarning: slow disk\n")


def test_configure_logging__other_rank__writes_only_warnings_with_its_rank(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = configure_logging(World(rank=3, world_size=4))
    log.info("hidden")
    log.error("lost")
    assert capsys.readouterr().err == "[rank 3] error: lost\n"


def test_configure_logging__twice__writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(World())
    configure_logging(World()).info("once")
    assert capsys.readouterr().err == "once\n"
