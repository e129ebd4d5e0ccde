"""Hooks of ``mkdocs build``: the repository's own documents become pages, and links between them hold in both places.

A reader of the repository follows ``../ARCHITECTURE.md``, a reader of the site ``architecture.html``: sources hold the
first, and this file makes the second. Files that are no documents, such as TOML, are copied below ``source/``.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "tests/benchmarks/RESULTS.md": "results.md",
}
"""Documents outside docs/ to the pages that they become."""

_LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")


def repository_path(document: str, target: str) -> str | None:
    """Return the path that a document's link leads to, from the repository's root; None for an address of the web."""
    if re.match(r"[a-z]+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), target))


def page_path(path: str) -> str:
    """Return where a file of the repository is found on the site."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}"


def site_links(document: str, markdown: str) -> str:
    """Turn a document's links into those of its page."""
    folder = posixpath.dirname(page_path(document))

    def turn(found: re.Match[str]) -> str:
        path = repository_path(document, found[2])
        return found[0] if path is None else f"{found[1]}{posixpath.relpath(page_path(path), folder or '.')}{found[3]}"

    return _LINK.sub(turn, markdown)


def on_files(files: Files, config: Any) -> Files:
    """Add the documents outside docs/, and the files that documents link to."""
    documents = {f"docs/{file.src_uri}" for file in files.documentation_pages()} | set(PAGES)
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for document in sorted(documents):
        for found in _LINK.finditer((ROOT / document).read_text()):
            path = repository_path(document, found[2])
            if path is None or path in documents or not (ROOT / path).is_file():
                continue
            place = page_path(path)
            if files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of one page."""
    sources = {place: source for source, place in PAGES.items()}
    return site_links(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"), markdown)
