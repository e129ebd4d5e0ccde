"""Imports point one way, between packages (the layers are in pyproject.toml) and within each of them."""

import graphlib
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).resolve().parents[2]


def test_import_contract__whole_package__is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("package", [path.parent.name for path in sorted((ROOT / "ecocli").glob("*/__init__.py"))])
def test_imports__within_a_package__form_no_circle(package: str) -> None:
    # Imports inside functions and for type checkers count: they hide a circle, they do not open it.
    graph = grimp.build_graph("ecocli", cache_dir=None)
    inside = {name for name in graph.modules if name.startswith(f"ecocli.{package}.")}
    assert inside
    imports = {name: graph.find_modules_directly_imported_by(name) & inside for name in inside}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
