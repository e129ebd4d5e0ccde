"""The page as Chromium lays it out, on a desk and on a phone, light and dark: measured, not compared by pixels."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ecocli.reports.page import Card, Panel, Plot, Section, Strip, Table, render_page
from ecocli.reports.plots import Tradeoff, TradeoffPoint, draw_exit_histogram, draw_tradeoff

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

_MEASURE = """
const page = frame.contentDocument, root = page.documentElement, all = [...page.querySelectorAll('*')];
const inside = (box) => box.right <= root.clientWidth + 0.5;
document.body.textContent = JSON.stringify({
  overflow: root.scrollWidth - root.clientWidth,
  outside: all.filter((e) => !e.closest('.wide') && e.tagName != 'INPUT' && !inside(e.getBoundingClientRect()))
    .map((e) => e.tagName),
  scrolling: [...page.querySelectorAll('.wide')].map((e) => e.scrollWidth > e.clientWidth),
  hints: [...page.querySelectorAll('.hint')].map((e) => e.getBoundingClientRect().height > 0),
  pictures: [...page.querySelectorAll('img')].map((e) => [e.getBoundingClientRect().width, e.naturalWidth]),
  background: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
  large: (() => { const first = page.querySelector('.panel input'); first.checked = true;
    const box = first.nextElementSibling.getBoundingClientRect(); return [box.left, box.width]; })(),
});
"""


def png_of(size: tuple[int, int], tmp_path: Path) -> bytes:
    Image.new("RGB", size, (90, 120, 150)).save(tmp_path / "picture.png")
    return (tmp_path / "picture.png").read_bytes()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    picture = png_of((384, 384), tmp_path_factory.mktemp("pictures"))
    points = [TradeoffPoint(f"exit {depth}", 50.0 + 4 * depth, 0.5 + 0.01 * depth) for depth in range(2, 7)]
    tradeoff = Tradeoff(
        title="shapes, val",
        measure="PQ",
        fixed=points,
        blends=points,
        gates=points[1:3],
        evaluated=points[2],
        pq_interval=None,
        oracles=points,
    )
    shares = ("shapes, val", (2, 3, 4, 5, 6), (0.2,) * 5, (0.2,) * 5)
    heads = ["", "PQ", "SQ", "RQ", "PQ things", "PQ stuff", "mIoU", "AP", "GFLOPs", "encoder", "ms", "layers"]
    heads.append("% at exits 2 3 4 5 6")  # as in the page of an evaluation
    content = [
        Plot(draw_tradeoff(tradeoff), draw_tradeoff(tradeoff, narrow=True), "trade-off"),
        Plot(draw_exit_histogram(*shares), draw_exit_histogram(*shares, narrow=True), "exits"),
        Table(heads, [[f"row {number}", *["12.34"] * 11, "20 20 20 20 20"] for number in range(3)], [1]),
        Strip([Panel(picture, f"exit {depth}", "PQ 58.1") for depth in range(5)], "Image 417: more layers help."),
        Table(["input", "digest"], [["parent", "sha256:" + 64 * "0"]]),
    ]
    cards = [Card("+1.23", "PQ above the best blend of equal GFLOPs, 95 % [+1.00, +1.50]")] * 6
    return render_page(
        "Early exits on shapes: the gate", "subtitle " * 30, cards, [Section("S", "text " * 80, content)]
    )


def measure(page: str, width: int, tmp_path: Path, *, dark: bool = False) -> Any:
    """Lay the page out in a frame of a width and measure it."""
    frame = f'<iframe id="frame" style="border:0" width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
    script = f"<script>onload = () => {{ const frame = document.getElementById('frame'); {_MEASURE} }}</script>"
    outer = tmp_path / "outer.html"
    outer.write_text(f'<!doctype html><meta name="color-scheme" content="light dark"><body>{frame}{script}</body>')
    assert CHROMIUM is not None
    arguments = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    arguments += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    arguments += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([*arguments, "--dump-dom", outer.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r"<body>(\{.*\})</body>", done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_page__in_a_browser__fits_and_is_legible(page: str, width: int, dark: bool, tmp_path: Path) -> None:
    found = measure(page, width, tmp_path, dark=dark)
    assert found["overflow"] == 0
    assert found["outside"] == []
    # A table that scrolls has a line that says so.
    assert all(hint for hint, scrolls in zip(found["hints"], found["scrolling"], strict=True) if scrolls)
    assert found["scrolling"] == [width == 400, width == 400]
    plots, panels = found["pictures"][:2], found["pictures"][2:]
    # Text of 8.5 points at 130 dots per inch: at least 8.5 px on the screen.
    assert all(8.5 * 130 / 72 * shown / natural >= 8.5 for shown, natural in plots)
    assert all(shown >= 170 for shown, _ in panels)
    assert found["large"][0] == 0
    assert found["large"][1] >= width - 20  # less a scroll bar
    assert found["background"] == ("rgb(25, 25, 25)" if dark else "rgb(255, 255, 255)")
