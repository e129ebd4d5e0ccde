import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecocli.data.workers import usable_cores, worker_pool
from ecocli.errors import UsageError


def test_usable_cores__affinity__counts_allowed_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert usable_cores() == 3


def test_usable_cores__no_affinity__all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7


def test_worker_pool__work__done_elsewhere_in_order() -> None:
    with worker_pool(2) as pool:
        assert list(pool.map(abs, [-3, 2, -1])) == [3, 2, 1]
        assert pool.submit(os.getpid).result() != os.getpid()


_KILLED = """
import os, sys, time
from ecocli.data.workers import worker_pool
if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_worker_pool__main_process_killed__helpers_end(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, timeout=60)
    helper = int(done.stdout)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{helper}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{helper}").exists()


_INTERRUPTED = """
import os, signal, sys, threading, time
from ecocli.data.workers import worker_pool

def interrupt():
    for pause in (0.3, 0.1):
        time.sleep(pause)
        os.killpg(0, signal.{signal})

def stop(number, frame):
    raise KeyboardInterrupt

if __name__ == "__main__":
    signal.signal(signal.{signal}, stop)
    try:
        with worker_pool(3) as pool:
            pool.submit(os.getpid).result()
            threading.Thread(target=interrupt).start()
            # Two work for long, the third waits for work.
            for done in pool.map(time.sleep, 2 * [60.0]):
                pass
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        # The second one comes here at the latest.
        try:
            time.sleep(1.0)
        except KeyboardInterrupt:
            pass
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_worker_pool__group_signalled_twice__ends_soon_and_quietly(tmp_path: Path, name: str) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(_INTERRUPTED.format(signal=name))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, start_new_session=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_worker_pool__worker_signalled__goes_on(number: signal.Signals) -> None:
    with worker_pool(1) as pool:
        worker = pool.submit(os.getpid).result()
        os.kill(worker, number)
        assert pool.submit(os.getpid).result() == worker


def test_worker_pool__worker_killed__is_an_error_of_the_machine() -> None:
    with pytest.raises(UsageError, match="A helper process was ended from outside"), worker_pool(2) as pool:
        pool.submit(os._exit, 9).result()
