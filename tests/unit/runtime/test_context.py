"""The runtime object, and that the runtime loads nothing heavy."""

import subprocess
import sys

import pytest

from ecocli.runtime.context import Runtime


def test_quiet__runtime__is_one_silent_process(capsys: pytest.CaptureFixture[str]) -> None:
    runtime = Runtime.quiet()
    runtime.log.warning("nobody hears this")
    with runtime.progress.task("training", total=1) as task:
        task.advance()
    assert (runtime.device, runtime.world.world_size, runtime.threads) == ("cpu", 1, 1)
    assert capsys.readouterr() == ("", "")


def test_should_stop__flag__is_told() -> None:
    runtime = Runtime.quiet()
    assert not runtime.should_stop()
    runtime.stop.request()
    assert runtime.should_stop()


def test_import__runtime__loads_no_torch() -> None:
    script = (
        "import sys, ecocli.runtime.context, ecocli.runtime.logging, ecocli.runtime.seeds, ecocli.runtime.device\n"
        "print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
