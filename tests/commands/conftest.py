"""A small parent and its graphs, for the tests of what exports."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers_export import pictures, put_tiny

from ecocli.artifacts.store import Store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, pictures, and the store's parent and gate as ONNX graphs."""
    folder = tmp_path_factory.mktemp("exported")
    put_tiny(Store(folder / "store"), pictures(folder / "pictures"))
    command = ["export", str(folder / "graphs"), "--format", "onnx", "--gate", "gate", "--store", str(folder / "store")]
    # On its own: inside torch.export sizes are symbols, which the tests' type checker takes for faults.
    done = subprocess.run([sys.executable, "-m", "ecocli", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'graphs'}\n"
    return folder
