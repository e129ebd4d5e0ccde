"""Freed memory that stays: seen in the page faults of a process of its own."""

import platform
import subprocess
import sys

import pytest

from ecocli.runtime import memory
from ecocli.runtime.memory import keep_freed_memory

# Makes and frees 64 MiB eight times, after a first time that may cost what it wants, and counts the pages cleared.
_CHURN = """
import resource, sys, threading
from ecocli.runtime.memory import keep_freed_memory
assert keep_freed_memory(eval(sys.argv[1])) == (sys.argv[2] == "kept")
def churn():
    bytearray(64 << 20)
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# A thread has a heap of its own, too small for this: it must get its memory all the same.
found = []
thread = threading.Thread(target=lambda: found.append(len(bytearray(256 << 20))))
thread.start()
thread.join()
assert found == [256 << 20]
"""


def faults(environment: dict[str, str], outcome: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _CHURN, repr(environment), outcome], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_keep_freed_memory__blocks_made_again_and_again__are_cleared_once() -> None:
    # Eight times 64 MiB are 131,072 small pages, or 256 huge ones.
    assert 10 * faults({"PATH": "/bin"}, "kept") < faults({"MALLOC_TRIM_THRESHOLD_": "131072"}, "left")


def test_keep_freed_memory__users_own_choice_or_another_library__changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not keep_freed_memory({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
    assert not keep_freed_memory({"MALLOC_MMAP_MAX_": "4"})
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory({})
