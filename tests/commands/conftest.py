"""A small parent and its graphs, for the tests of what exports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from helpers_export import pictures, put_tiny

from ecocli.artifacts.store import Store


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, pictures, and the store's parent and gate as ONNX graphs.

    Tracing takes most of an export, so one process writes them for all; no test changes them.
    """
    own = tmp_path_factory.getbasetemp()
    # The folders of pytest-xdist's processes are in the one of their run.
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exported"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "graphs").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _export(folder)
    return folder


def _export(folder: Path) -> None:
    put_tiny(Store(folder / "store"), pictures(folder / "pictures"))
    command = ["export", str(folder / "graphs"), "--format", "onnx", "--gate", "gate", "--store", str(folder / "store")]
    # On its own: inside torch.export sizes are symbols, which the tests' type checker takes for faults.
    done = subprocess.run([sys.executable, "-m", "ecocli", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'graphs'}\n"
