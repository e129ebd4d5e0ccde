"""What holds for every test: checked shapes, a store of its own, no data sets of the machine, few threads."""

import logging
import os
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook
from typechecking import modules_with_shapes

# Before the first import of the package: modules that annotate shapes have them, and all types, checked at run time, in
# tests only. The other modules' types are mypy's: a check of every call there would be a fifth of the tests' time.
install_import_hook(modules_with_shapes(), "typechecking.check_types")

# For torch and its children, before anything loads it: one thread unless the caller names a number, because two busy
# test runs on one machine slow each other down.
_THREADS = os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait give their core away; spinning, two busy runs of two threads take four times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples in every run, and no time limit that a busy machine could exceed.
hypothesis.settings.register_profile("project", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("project")

_VARIABLES_OF_THE_MACHINE = (
    "DETECTRON2_DATASETS",
    "ECO_DATASETS",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
)


@pytest.fixture(autouse=True)
def _isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", _THREADS)
    for name in _VARIABLES_OF_THE_MACHINE:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _fresh_logging() -> None:
    # Commands send the package's log to stderr, and other tools switch off loggers that they do not know.
    for name in ["ecocli", *(known for known in logging.root.manager.loggerDict if known.startswith("ecocli."))]:
        logger = logging.getLogger(name)
        logger.disabled = False
        logger.setLevel(logging.NOTSET)
    package = logging.getLogger("ecocli")
    for handler in list(package.handlers):
        package.removeHandler(handler)


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    # Commands set the number for the whole process; the next test begins with its own again.
    import torch

    torch.set_num_threads(int(_THREADS))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference tensors and figures, which is not part of the repository; skips where it is absent."""
    named = os.environ.get("ECO_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("the folder of golden tensors is not here; set ECO_SHARED to run this test")
    return folder
