"""The documents name files that exist, links that lead somewhere, and the import contract that the tests hold."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING")),
    *sorted(ROOT.glob("docs/*.md")),
]
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
