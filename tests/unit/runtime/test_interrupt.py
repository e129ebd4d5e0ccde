"""Signals, sent to this process."""

import os
import signal
import threading

import pytest

from ecocli.runtime.interrupt import StopFlag


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_stop_flag__signal__is_noted(number: signal.Signals) -> None:
    with StopFlag() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.reason == number.name


def test_stop_flag__second_sigint__raises() -> None:
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested


def test_stop_flag__sigint_after_sigterm__is_the_first_sigint_and_raises_nothing() -> None:
    reasons: list[str] = []
    with StopFlag(reasons.append) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert reasons == ["SIGTERM"]


def test_stop_flag__left__restores_former_handlers() -> None:
    seen: list[int] = []
    former = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        default = signal.getsignal(signal.SIGTERM)
        with StopFlag():
            assert signal.getsignal(signal.SIGTERM) != default
        assert signal.getsignal(signal.SIGTERM) == default
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert seen == [signal.SIGUSR1]


def test_stop_flag__other_thread__only_request_sets_it() -> None:
    states: list[bool] = []

    def enter() -> None:
        with StopFlag() as stop:
            states.append(stop.requested)
            stop.request()
            states.append(stop.requested)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert states == [False, True]
    assert signal.getsignal(signal.SIGTERM) == before
