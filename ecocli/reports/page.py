"""One self-contained HTML page: pictures are embedded, nothing is loaded from elsewhere, no script runs."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c1e24; --faint: #666a74; --line: #e3e5ea; --strong: #fdf3f4; }
body { margin: 0 auto; max-width: 1180px; padding: 28px 20px 60px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 8px; }
p { max-width: 78ch; margin: 6px 0 12px; } .faint, .hint { color: var(--faint); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 8px; }
.card { box-sizing: border-box; border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px;
  min-width: 130px; }
.card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.card span { color: var(--faint); font-size: 13px; }
/* The shadows lie under covers that scroll with the table: they show where something is left to see. */
.wide { overflow-x: auto; background:
    linear-gradient(90deg, var(--page) 30%, transparent) left / 48px 100% local no-repeat,
    linear-gradient(270deg, var(--page) 30%, transparent) right / 48px 100% local no-repeat,
    linear-gradient(90deg, #8888, transparent) left / 14px 100% scroll no-repeat,
    linear-gradient(270deg, #8888, transparent) right / 14px 100% scroll no-repeat; }
.hint { display: none; font-size: 13px; margin: 0 0 4px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tr.strong td { font-weight: 650; } tr.strong { background: var(--strong); }
figure { margin: 14px 0 26px; } figure img { max-width: 100%; height: auto; }
figcaption { color: var(--faint); font-size: 14px; max-width: 90ch; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 12px; }
.panel { cursor: zoom-in; font-size: 14px; } .panel img { width: 100%; display: block; border-radius: 3px; }
.panel input { position: absolute; opacity: 0; } .panel input:focus-visible + img { outline: 3px solid #2a7f9e; }
.panel input:checked + img { position: fixed; inset: 0; z-index: 1; width: 100vw; height: 100vh; object-fit: contain;
  background: #000d; cursor: zoom-out; border-radius: 0; }
.panel span { color: var(--faint); }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 1150px) { .long .hint { display: block; } }
@media (max-width: 600px) { body { padding: 16px 12px 40px; } .panels { grid-template-columns: 1fr 1fr; }
  .hint { display: block; } .card { flex: 1 1 40%; min-width: 0; } }
@media (prefers-color-scheme: dark) {
  :root { --page: #191919; --ink: #e8e8ea; --faint: #a3a6ad; --line: #38393d; --strong: #33272a; }
  .plot img { filter: invert(0.9) hue-rotate(180deg); } }
"""


_MANY_COLUMNS = 8


@dataclass(frozen=True)
class Card:
    """A number to see first."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        strong: Numbers of the rows to emphasise.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()


@dataclass(frozen=True)
class Plot:
    """A plot as PNG, once for wide and once for narrow screens; the alternative text says what can be seen."""

    wide: bytes
    narrow: bytes
    alternative: str


@dataclass(frozen=True)
class Panel:
    """A PNG with two short lines below it."""

    png: bytes
    title: str
    note: str


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, as many in a row as there is room for; each opens large."""

    panels: Sequence[Panel]
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, and what follows it."""

    title: str
    text: str
    content: Sequence[Table | Plot | Strip] = ()


def render_page(title: str, subtitle: str, cards: Sequence[Card], sections: Sequence[Section]) -> str:
    """Write the page; all texts are escaped."""
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="faint">{escape(subtitle)}</p>']
    if cards:
        inner = "".join(
            f'<div class="card"><b>{escape(card.value)}</b><span>{escape(card.meaning)}</span></div>' for card in cards
        )
        parts.append(f'<div class="cards">{inner}</div>')
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.text:
            parts.append(f"<p>{escape(section.text)}</p>")
        parts += [_content(item) for item in section.content]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _content(item: Table | Plot | Strip) -> str:
    if isinstance(item, Table):
        return _table(item)
    return _plot(item) if isinstance(item, Plot) else _strip(item)


def _table(table: Table) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    rows = []
    for number, row in enumerate(table.rows):
        opening = '<tr class="strong">' if number in table.strong else "<tr>"
        rows.append(opening + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    body = "\n".join(rows)
    length = "long" if len(table.heads) > _MANY_COLUMNS else "short"
    return (
        f'<div class="{length}"><p class="hint">Scrolls sideways.</p><div class="wide" tabindex="0"><table>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div></div>"
    )


def _plot(plot: Plot) -> str:
    return (
        f'<figure class="plot"><picture><source media="(max-width: 600px)" srcset="{_data(plot.narrow)}">'
        f'<img src="{_data(plot.wide)}" alt="{escape(plot.alternative)}"></picture></figure>'
    )


def _strip(strip: Strip) -> str:
    panels = "".join(
        f'<label class="panel"><input type="checkbox" aria-label="enlarge"><img src="{_data(panel.png)}" '
        f'alt="{escape(panel.title)}"><b>{escape(panel.title)}</b> <span>{escape(panel.note)}</span></label>'
        for panel in strip.panels
    )
    return f'<figure><div class="panels">{panels}</div><figcaption>{escape(strip.caption)}</figcaption></figure>'


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
