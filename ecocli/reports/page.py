"""One self-contained HTML page: pictures are embedded, nothing is loaded from elsewhere, no script runs."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1180px; padding: 28px 20px 60px; background: #fff; color: #1c1e24;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 8px; }
p { max-width: 78ch; margin: 6px 0 12px; } .faint { color: #6e727c; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 8px; }
.card { border: 1px solid #e3e5ea; border-radius: 8px; padding: 10px 16px; min-width: 130px; }
.card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.card span { color: #6e727c; font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 11px; text-align: right; border-bottom: 1px solid #eceef2; white-space: nowrap; }
th { color: #6e727c; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tr.strong td { font-weight: 650; background: #fdf3f4; }
figure { margin: 14px 0 26px; } figure img { max-width: 100%; height: auto; }
figcaption { color: #6e727c; font-size: 14px; max-width: 90ch; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Card:
    """A number to see first."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        heads: Column headings.
        rows: Cells.
        strong: Numbers of the rows to emphasise.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()


@dataclass(frozen=True)
class Figure:
    """A PNG with a caption; the alternative text says what can be seen."""

    png: bytes
    caption: str
    alternative: str


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, and what follows it."""

    title: str
    text: str
    content: Sequence[Table | Figure] = ()


def render_page(title: str, subtitle: str, cards: Sequence[Card], sections: Sequence[Section]) -> str:
    """Write the page; all texts are escaped."""
    parts = [f"<h1>{_text(title)}</h1>", f'<p class="faint">{_text(subtitle)}</p>']
    if cards:
        inner = "".join(
            f'<div class="card"><b>{_text(card.value)}</b><span>{_text(card.meaning)}</span></div>' for card in cards
        )
        parts.append(f'<div class="cards">{inner}</div>')
    for section in sections:
        parts.append(f"<h2>{_text(section.title)}</h2>")
        if section.text:
            parts.append(f"<p>{_text(section.text)}</p>")
        parts += [_table(item) if isinstance(item, Table) else _figure(item) for item in section.content]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


def _table(table: Table) -> str:
    heads = "".join(f"<th>{_text(head)}</th>" for head in table.heads)
    rows = []
    for number, row in enumerate(table.rows):
        opening = '<tr class="strong">' if number in table.strong else "<tr>"
        rows.append(opening + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>")
    body = "\n".join(rows)
    return f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{_text(figure.alternative)}">'
        f"<figcaption>{_text(figure.caption)}</figcaption></figure>"
    )
