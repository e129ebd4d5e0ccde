"""Device and threads, on machines with and without a GPU."""

import os

import pytest
import torch

from ecocli.runtime import device as device_module
from ecocli.runtime.device import choose_device, limit_threads


def _pretend(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(device_module, "_has_nvidia_driver", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    "requested, count, expected",
    [("cpu", 2, "cpu"), ("auto", 0, "cpu"), ("auto", 2, "cuda:1"), ("cuda", 2, "cuda:1")],
)
def test_choose_device__request__is_met(
    requested: str, count: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, count)
    assert choose_device(requested, local_rank=1) == expected


def test_choose_device__unknown__raises() -> None:
    with pytest.raises(ValueError, match="The device is 'gpu', expected one of auto, cpu, cuda"):
        choose_device("gpu")


def test_choose_device__no_gpu__raises(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, 0)
    with pytest.raises(ValueError, match="torch finds no working GPU here"):
        choose_device("cuda")


def test_choose_device__more_processes_than_gpus__raises(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, 2)
    with pytest.raises(ValueError, match="Process 2 of this machine found 2 GPUs, expected one GPU per process"):
        choose_device("auto", local_rank=2)


def test_has_nvidia_driver__libraries__first_that_loads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(device_module.ctypes, "CDLL", refuse)
    assert not device_module._has_nvidia_driver()
    monkeypatch.setattr(device_module.ctypes, "CDLL", lambda name: None)
    assert device_module._has_nvidia_driver()


def test_limit_threads__given__reaches_torch_and_later_libraries() -> None:
    before = torch.get_num_threads()
    try:
        assert limit_threads(2) == 2
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "2"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("text", ["1", "1,4"])
def test_limit_threads__environment__is_taken(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert limit_threads() == 1


def test_limit_threads__nothing_said__takes_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert limit_threads() == 1


@pytest.mark.parametrize("text", ["0", "many", "-1"])
def test_limit_threads__environment_nonsense__raises(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(ValueError, match=r"OMP_NUM_THREADS is '.*', expected a positive number"):
        limit_threads()


def test_limit_threads__empty_environment__as_if_it_were_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert limit_threads() == 1
