"""Locks save work and never stand in the way."""

import fcntl
import logging
import os
import threading
from pathlib import Path

import pytest

from ecocli.artifacts.locking import locked
from ecocli.errors import InterruptedRunError


def _hold(path: Path) -> int:
    # A second open file description: flock makes it a stranger, like another process.

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_locked__free__is_held_inside_and_free_after(tmp_path: Path) -> None:
    with locked(tmp_path / "x.lock", "work") as held:
        assert held
        with pytest.raises(BlockingIOError), (tmp_path / "x.lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "x.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_locked__held_by_another__says_so_once_and_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:

    descriptor = _hold(tmp_path / "x.lock")
    released = threading.Event()

    def release() -> None:
        released.set()
        os.close(descriptor)

    timer = threading.Timer(0.7, release)
    timer.start()
    with caplog.at_level(logging.INFO), locked(tmp_path / "x.lock", "the same action") as held:
        assert held
        assert released.is_set()
    timer.join()
    assert caplog.text.count("Another process is busy with the same action; waiting for it") == 1


def test_locked__stopped_while_waiting__leaves_with_resume_code(tmp_path: Path) -> None:

    descriptor = _hold(tmp_path / "x.lock")
    with (
        pytest.raises(InterruptedRunError, match="Stopped by a signal while waiting for another process"),
        locked(tmp_path / "x.lock", "work", stop=lambda: True),
    ):
        pass
    os.close(descriptor)


def test_locked__no_locks_here__goes_on_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "locks").write_text("a file where the folder should be")
    with locked(tmp_path / "locks" / "x.lock", "work") as held:
        assert not held
    assert "going on without, work may be done twice" in caplog.text
