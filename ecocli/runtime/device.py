"""Which device a process computes on, found without loading torch where there is no NVIDIA driver."""

from __future__ import annotations

import ctypes

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
