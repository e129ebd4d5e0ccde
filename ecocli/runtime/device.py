"""Which device and how many threads a process computes with, settled without loading torch where possible."""

from __future__ import annotations

import ctypes
import os
import sys

DEVICES = ("auto", "cpu", "cuda")


def _has_nvidia_driver() -> bool:
    # Asking torch costs seconds of import; a machine without the driver's library has no GPU to ask for.
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def choose_device(requested: str, local_rank: int = 0) -> str:
    """Name the torch device of this process: ``cpu`` or ``cuda:<local rank>``.

    Args:
        requested: ``auto`` takes a GPU where one works, ``cpu`` and ``cuda`` insist.
        local_rank: Position among the processes of this machine.

    Raises:
        ValueError: The name is unknown, no GPU works, or there are more processes than GPUs.
    """
    if requested not in DEVICES:
        raise ValueError(f"The device is {requested!r}, expected one of {', '.join(DEVICES)}.")
    if requested == "cpu":
        return "cpu"
    count = 0
    if _has_nvidia_driver():
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        if requested == "auto":
            return "cpu"
        raise ValueError(
            "The device is 'cuda', but torch finds no working GPU here. Check nvidia-smi and that torch is a "
            "CUDA build, or use --device cpu."
        )
    if local_rank >= count:
        raise ValueError(
            f"Process {local_rank} of this machine found {count} GPUs, expected one GPU per process. Start "
            f"at most {count} processes per machine, or use --device cpu."
        )
    return f"cuda:{local_rank}"


def limit_threads(requested: int | None = None) -> int:
    """Set the number of CPU threads for computing and return it.

    Args:
        requested: None takes ``OMP_NUM_THREADS``, which torchrun sets, or else all cores this process may use.

    Raises:
        ValueError: ``OMP_NUM_THREADS`` is not a positive number.
    """
    count = requested
    if count is None:
        text = os.environ.get("OMP_NUM_THREADS", "").strip()
        if not text:
            # Unlike cpu_count this respects the share of a machine that a batch system grants.
            count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        elif (first := text.partition(",")[0]).isdecimal() and int(first) > 0:
            # OpenMP allows one number per level of nesting; only the first matters here.
            count = int(first)
        else:
            raise ValueError(f"The environment variable OMP_NUM_THREADS is {text!r}, expected a positive number.")
    # Read by libraries when they are loaded; torch is loaded late, if at all, so both ways are needed.
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
    return count
