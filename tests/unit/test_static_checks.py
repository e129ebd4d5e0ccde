"""Types, lint and formatting hold for the whole tree, with the tools and settings of pyproject.toml."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types__mypy_strict__finds_nothing() -> None:
    _run("mypy")


def test_lint__ruff__finds_nothing() -> None:
    _run("ruff", "check", "ecocli", "tests", "docs/tools")


def test_format__ruff__changes_nothing() -> None:
    _run("ruff", "format", "--check", "ecocli", "tests", "docs/tools")
