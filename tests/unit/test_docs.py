"""Documents name files that exist, links that lead somewhere, commands that parse, and what programs know."""

import ast
import importlib
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from helpers_docs import DOCUMENTS, ROOT, blocks, eco_arguments, parse, shell_commands

_ROOMS = {path.name for folder in (ROOT, ROOT / "ecocli") for path in folder.iterdir() if path.is_dir()}


def named_paths(text: str) -> set[str]:
    """Paths in backticks that begin with a folder of the repository or of the package, without placeholders."""
    spans = re.findall(r"`([\w.-]+/[\w./-]*)`", text)
    return {span for span in spans if span.split("/")[0] in _ROOMS and "NAME" not in span}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document__paths_and_links__exist(document: Path) -> None:
    text = document.read_text()
    missing = [p for p in named_paths(text) if not (ROOT / p).exists() and not (ROOT / "ecocli" / p).exists()]
    assert missing == []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        found = document if not path else document.parent / path
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}, target


def test_document__contract__is_import_linters() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    expected = " > ".join(layers).replace("ecocli.", "").split()
    for name in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        (block,) = re.findall(r"^    __main__ > .*\n(?:    .*\n)*", (ROOT / name).read_text(), re.MULTILINE)
        assert block.split() == expected, name


def test_architecture__length__one_page() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 80


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document__commands__parse(document: Path) -> None:
    for block in blocks(document, "sh"):
        for command in shell_commands(block):
            arguments = eco_arguments(command)
            if arguments is not None:
                _check_command(arguments)
            elif command[0] == "make":
                assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) for target in command[1:2])
            elif command[0].startswith("pipelines/"):
                assert os.access(ROOT / command[0], os.X_OK), command[0]


def _check_command(arguments: list[str]) -> None:
    try:
        parse(arguments)
    except typer.Exit:  # help and version
        return
    except typer.TyperException as error:
        pytest.fail(f"eco {' '.join(arguments)}: {error.format_message()}")
    for word, value in itertools.pairwise(arguments):
        if word == "--config" and "/" in value:
            assert (ROOT / value).is_file(), value


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document__other_code__is_valid(document: Path) -> None:
    for block in blocks(document, "toml"):
        tomllib.loads(block)
    for block in blocks(document, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ecocli"):
                if node.module.startswith("ecocli.bridges") and importlib.util.find_spec("detectron2") is None:
                    continue
                assert all(hasattr(importlib.import_module(node.module), name.name) for name in node.names)


def test_generated_pages__now__are_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "tools" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for name, write in pages.PAGES.items():
        assert (ROOT / "docs" / name).read_text() == write(), f"docs/{name} is old: make docs"


def test_site__strict__builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert 'href="architecture.html#departures-from-the-design"' in (tmp_path / "site" / "decisions.html").read_text()
