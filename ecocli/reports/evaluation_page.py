"""The texts and tables of the page about an evaluation.

Values come as the summary of the evaluation, fractions; the page shows points (0 to 100).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ecocli.artifacts.summaries import EvaluationSummary
from ecocli.config.derive import TaskName
from ecocli.reports.box_overlays import DRAWN_SCORE
from ecocli.reports.numbers import interval, mixture, plain, points, shares
from ecocli.reports.page import Card, Panel, Plot, Section, Strip, Table, render_page

_EXAMPLES: Mapping[TaskName, str] = {
    "panoptic": "Hatched pixels are unlabelled.",
    "detection": f"Detections of a score above {DRAWN_SCORE:g} are drawn.",
}


@dataclass(frozen=True)
class Example:
    """One example image: what is compared, and why it is shown.

    Attributes:
        sheet: All panels in one PNG, for a file of its own.
        panels: The same one by one.
    """

    sheet: bytes
    panels: Sequence[Panel]
    caption: str


@dataclass(frozen=True)
class ClassScore:
    """Quality of one class, 0..1, None where it does not occur."""

    name: str
    kind: str
    by_row: Mapping[str, float | None]


@dataclass(frozen=True)
class PageContent:
    """All that the page shows.

    Attributes:
        ms_per_image: Measured milliseconds by row name; empty where not measured.
        tradeoff: Plot of quality against GFLOPs, for wide and for narrow screens.
        histogram: Plot of the exits, likewise.
        origins: What was evaluated, as (role, digest).
    """

    summary: EvaluationSummary
    ms_per_image: Mapping[str, float]
    tradeoff: tuple[bytes, bytes]
    histogram: tuple[bytes, bytes]
    examples: Sequence[Example]
    classes: Sequence[ClassScore]
    origins: Sequence[tuple[str, str]]


def build_page(content: PageContent) -> str:
    """Write the page as HTML."""
    summary = content.summary
    gate, measure = summary.gate, summary.measure
    what = "the gate" if gate else "the fixed exits"
    subtitle = (
        f"{summary.dataset}, split {summary.split}, {summary.images} images; exits after "
        f"{', '.join(map(str, summary.exit_depths))} encoder layers"
        + (f"; graphs run by {summary.engine} in {summary.precision}" if summary.engine != "torch" else "")
        + (f"; gate on {gate.feature}, fitted at price {gate.beta:g} per unit of cost" if gate else "")
    )
    sections = [
        Section(
            "Quality against compute", _tradeoff_text(summary), [Plot(*content.tradeoff, f"{measure} against GFLOPs")]
        ),
        Section(
            "All numbers",
            f"{_headings(summary)} in points. GFLOPs count one multiply-add once and are means over the images; "
            "encoder is the whole pixel decoder. The random row sends each image to an exit at random, as often as "
            "the gate does. The oracle takes each image's best exit and needs to know the truth, luck included. The "
            "row attainable, where there is one, takes the exits that the truth about the mirror images would choose "
            "at this cost." + ("" if summary.rules_note is None else f" {summary.rules_note}"),
            [_row_table(summary, content.ms_per_image)],
        ),
        Section(
            "Which exits images need",
            f"The best exit is the shallowest with the image's highest {measure}.",
            [Plot(*content.histogram, "share of images by exit")],
        ),
    ]
    if content.examples:
        strips = [Strip(example.panels, example.caption) for example in content.examples]
        text = f"{_EXAMPLES[summary.task]} A click shows a picture large, another one closes it."
        if summary.engine != "torch":
            text += " The pictures were computed by torch."
        sections.append(Section("Examples", text, strips))
    rules = f" {summary.rules_note}" if summary.task == "detection" else ""
    sections.append(Section("Classes", f"{measure} in points, sorted by name.{rules}", [_class_table(content.classes)]))
    origins = Table(["input", "digest"], [list(origin) for origin in content.origins])
    sections.append(Section("Origin", "", [origins]))
    title = f"Early exits on {summary.dataset}: {what}"
    return render_page(title, subtitle, _cards(summary, content.ms_per_image), sections)


def _cards(summary: EvaluationSummary, ms: Mapping[str, float]) -> list[Card]:
    rows = summary.by_name
    deepest = rows[f"exit {summary.exit_depths[-1]}"]
    measure = summary.measure
    cards = [Card(points(summary.quality(deepest)), f"{measure} of exit {summary.exit_depths[-1]}, the deepest")]
    gate = rows.get("gate")
    if gate is not None:
        saved = 1 - gate.gflops / deepest.gflops
        cards = [
            Card(points(summary.quality(gate)), f"{measure} of the gate"),
            *cards,
            Card(f"{100 * saved:.1f} %", "GFLOPs saved against it"),
            Card(f"{gate.mean_depth:.2f}", "encoder layers per image"),
        ]
        if "gate" in ms and deepest.name in ms:
            cards.append(Card(f"{100 * (1 - ms['gate'] / ms[deepest.name]):.1f} %", "milliseconds saved"))
        lead = summary.gate_lead
        if lead is not None:
            ends = interval((lead.low, lead.high), signed=True)
            cards.append(
                Card(points(lead.lead, signed=True), f"{measure} above the best blend of equal GFLOPs, 95 % {ends}")
            )
    cards.append(Card(points(summary.quality(rows["oracle"])), f"{measure} of the oracle"))
    return cards


def _tradeoff_text(summary: EvaluationSummary) -> str:
    lead = summary.gate_lead
    if lead is None:
        return "What lies between the fixed exits and the oracle is what a gate can win."
    blend = mixture(lead.mixture, summary.exit_depths, joint=" and ")
    worth = (
        "The interval lies above zero: the gate beats choosing blindly."
        if lead.low > 0
        else "The interval lies below zero: choosing blindly does better than this gate."
        if lead.high < 0
        else "The interval contains zero: on these images the gate cannot be told from choosing blindly."
    )
    return (
        f"Blindly, at the gate's GFLOPs, the best blend is {blend}: {summary.measure} {points(lead.control_pq)}. The "
        f"gate's lead is {points(lead.lead, signed=True)} {summary.measure}, 95 % bootstrap interval "
        f"{interval((lead.low, lead.high), signed=True)}. {worth} The bar at the gate is this interval, drawn "
        "around the gate."
    )


def _row_table(summary: EvaluationSummary, ms: Mapping[str, float]) -> Table:
    depths = summary.exit_depths
    heads = ["", *summary.qualities, "GFLOPs", "encoder", "ms", "layers"]
    heads.append(f"% at exits {' '.join(map(str, depths))}")
    cells = []
    for row in summary.rows:
        cells.append(
            [
                row.name,
                *(points(getattr(row, field)) for field in summary.qualities.values()),
                plain(row.gflops),
                plain(row.encoder_gflops),
                f"{ms[row.name]:.1f}" if row.name in ms else "-",
                f"{row.mean_depth:.2f}",
                shares(row.exit_shares),
            ]
        )
    strong = [number for number, row in enumerate(summary.rows) if row.name == "gate"]
    return Table(heads, cells, strong)


def _class_table(classes: Sequence[ClassScore]) -> Table:
    names = list(classes[0].by_row) if classes else []
    rows = [
        [one.name, one.kind, *(points(one.by_row[name]) for name in names)]
        for one in sorted(classes, key=lambda one: one.name)
    ]
    return Table(["class", "kind", *names], rows)


def _headings(summary: EvaluationSummary) -> str:
    names = list(summary.qualities)
    return f"{names[0]} to {names[-1]}"
