"""``eco env``: what it prints is what the machine has."""

import json
import platform
from pathlib import Path

import pytest
import torch

from ecocli.__main__ import main


def test_env__json__names_versions_places_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ECO_DATASETS", "/data")
    assert main(["env", "--json", "--store", str(tmp_path / "mine")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["python"], found["torch"]) == (platform.python_version(), torch.__version__)
    assert (found["threads"], found["data sets"], found["$ECO_DATASETS"]) == (1, "/data", "/data")
    assert (found["store"], found["store exists"]) == (str(tmp_path / "mine"), False)
    assert not (tmp_path / "mine").exists()
    # Of the dependencies, not of the tools that develop eco.
    assert found["numpy"] is not None
    assert "ruff" not in found


def test_env__text__one_line_for_each_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert main(["env"]) == 0
    out, err = capsys.readouterr()
    names = [line.split("  ")[0] for line in out.splitlines()]
    assert names[:3] == ["eco", "python", "system"]
    assert {"threads", "gpus", "store", "torch", "pydantic"} <= set(names)
    assert "$OMP_NUM_THREADS" not in names
    assert err == ""


def test_env__impossible_number_of_threads__is_shown_not_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert main(["env"]) == 0
    assert "OMP_NUM_THREADS is 'many', expected a positive number" in capsys.readouterr().out
