"""Freed memory stays with the process, where the C library can be told so.

glibc gives every block above 32 MiB fresh from the operating system, which clears it page by page when it is touched,
and gives it back when it is freed. The maps of a network are such blocks, made and freed all the time: without this
a third of a training step on a CPU can be the clearing of pages.
"""

import ctypes
import os
import platform
from collections.abc import Mapping

# Numbers of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory(environment: Mapping[str, str] | None = None) -> bool:
    """Let this process use freed memory again instead of giving it back; costs memory where sizes vary.

    Args:
        environment: Whoever sets glibc's own variables (``MALLOC_..._``, ``GLIBC_TUNABLES``) has chosen; then nothing
            is changed.

    Returns:
        Whether it was set; it is not where the C library is another one than glibc.
    """
    environment = os.environ if environment is None else environment
    chosen = any(name == "GLIBC_TUNABLES" or (name.startswith("MALLOC_") and name[-1] == "_") for name in environment)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    done = [mallopt(parameter, value) for parameter, value in settings]
    return done == [1] * len(settings)
