"""The HTML page: escaped, complete in itself, and the texts that depend on the numbers."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ecocli.artifacts.summaries import EvaluatedGate, EvaluationRow, EvaluationSummary, LeadSummary
from ecocli.reports.evaluation_page import ClassScore, Example, PageContent, build_page
from ecocli.reports.page import Card, Panel, Plot, Section, Strip, Table, render_page

PNG = b"\x89PNG not really"


class Reader(HTMLParser):
    """Collects texts and image sources, and checks that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "source", "input"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_render_page__special_characters__are_escaped_and_nothing_is_loaded() -> None:
    table = Table(["<a>", "b"], [["1 & 2", "<script>"], ["3", "4"]], strong=[1])
    content = [table, Plot(PNG, PNG, "alt"), Strip([Panel(PNG, "p", "<n>")], "c")]
    page = render_page("T <x>", "sub", [Card("9", "m & n")], [Section("S", "text", content)])
    reader = Reader(page)
    assert "<script" not in page
    assert {"T <x>", "m & n", "1 & 2", "<script>"} <= set(reader.texts)
    assert [source.split(",")[0] for source in reader.sources] == 3 * ["data:image/png;base64"]
    assert page.count('<tr class="strong">') == 1
    assert not re.search(r"https?://|url\(|@import", page)


def row(name: str, pq: float, gflops: float) -> EvaluationRow:
    unknown = dict.fromkeys(("sq", "rq", "pq_things", "pq_stuff", "miou", "ap", "ap50"))
    return EvaluationRow(
        name=name, pq=pq, **unknown, gflops=gflops, encoder_gflops=1.0, mean_depth=2.5, exit_shares=(0.5, 0.5)
    )


def content(lead: LeadSummary | None, gate: bool = True) -> PageContent:
    rows = [row("exit 2", 0.4, 8.0), row("exit 3", 0.5, 10.0), row("oracle", 0.6, 9.0)]
    if gate:
        rows.insert(2, row("gate", 0.48, 8.5))
    summary = EvaluationSummary(
        dataset="shapes",
        split="val",
        images=7,
        undefined_images=0,
        ap_truth=None,
        exit_depths=(2, 3),
        gate=EvaluatedGate(digest="sha256:2", feature="res5", beta=0.001, exit_depths=(2, 3)) if gate else None,
        gate_lead=lead,
        rows=tuple(rows),
    )
    scores = [ClassScore("zebra", "thing", {"gate": None}), ClassScore("ant", "thing", {"gate": 0.25})]
    ms = {"exit 3": 20.0, "gate": 15.0} if gate else {}
    examples = [Example(PNG, [Panel(PNG, "truth", "4 segments")], "Image 1: why.")]
    return PageContent(summary, ms, (PNG, PNG), (PNG, PNG), examples, scores, [("parent", "sha256:1")])


def lead_of(low: float, high: float) -> LeadSummary:
    return LeadSummary(
        mixture=(0.75, 0.25), control_pq=0.45, lead=0.03, low=low, high=high, confidence=0.95, replicates=100
    )


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (0.01, 0.05, "lies above zero: the gate beats choosing blindly"),
        (-0.05, -0.01, "lies below zero: choosing blindly does better"),
        (-0.01, 0.05, "contains zero: on these images the gate cannot be told from choosing blindly"),
    ],
)
def test_build_page__lead_interval__is_put_into_words(low: float, high: float, verdict: str) -> None:
    text = " ".join(Reader(build_page(content(lead_of(low, high)))).texts)
    assert verdict in text
    assert "the best blend is 75 % exit 2 and 25 % exit 3: PQ 45.00" in text


def test_build_page__gate__shows_savings_first() -> None:
    # By hand: 1 - 8.5 / 10 of the GFLOPs, 1 - 15 / 20 of the milliseconds.
    texts = Reader(build_page(content(lead_of(0.01, 0.05)))).texts
    assert {"48.00", "15.0 %", "25.0 %", "+3.00"} <= set(texts)
    assert texts.index("ant") < texts.index("zebra")


def test_build_page__no_gate__speaks_of_exits_alone() -> None:
    texts = Reader(build_page(content(None, gate=False))).texts
    assert "Early exits on shapes: the fixed exits" in texts
    assert any(text.startswith("What lies between the fixed exits and the oracle") for text in texts)


@pytest.mark.parametrize(
    "rules, measured, note",
    [
        ("coco", {"miou": 0.4}, "Rules coco: mIoU over the classes that the truth holds; AP as pycocotools"),
        ("cityscapes", {"miou": 0.4}, "Rules cityscapes: mIoU and AP as cityscapesScripts computes them"),
        ("cityscapes", {}, None),
    ],
)
def test_build_page__numbers_beside_pq__are_named_by_their_rules(
    rules: str, measured: dict[str, float], note: str | None
) -> None:
    page = content(None)
    rows = tuple(one.model_copy(update=measured) for one in page.summary.rows)
    summary = page.summary.model_copy(update={"rules": rules, "rows": rows})
    text = " ".join(Reader(build_page(replace(page, summary=summary))).texts)
    assert "Rules" not in text if note is None else text.count(note) == 1


def test_build_page__boxes__both_tables_name_their_rules() -> None:
    page = content(None)
    rows = tuple(one.model_copy(update={"ap": one.pq}) for one in page.summary.rows)
    summary = page.summary.model_copy(update={"task": "detection", "rows": rows})
    text = " ".join(Reader(build_page(replace(page, summary=summary))).texts)
    assert text.count("AP of boxes by COCO's rules, as pycocotools computes it.") == 2
    against = summary.model_copy(update={"task": "panoptic", "ap_truth": "instances_val2017.json"})
    assert against.rules_note.endswith(" AP against instances_val2017.json.")
