"""A gate beside its controls as tables for the terminal. PQ and AP in points (0 to 100)."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from ecocli.artifacts.summaries import BudgetSummary, ChoiceSummary, GateMetrics, HeadSummary, TradeOffStep
from ecocli.commands.tables import make_table
from ecocli.config.fit_gate import CostName, CostUnit
from ecocli.reports.numbers import interval, plain, points, points_note, reached_text, shares

_UNITS: Mapping[CostName, str] = {"depth": "layers", "gflops": "GFLOPs", "ms": "ms"}


def controls_table(metrics: GateMetrics, exit_depths: Sequence[int], cost: CostName, measure: str = "PQ") -> Table:
    """Lay out the verdict of a gate's manifest: every fixed exit, the controls, the gate, the oracles."""
    headings = [measure, f"{measure} interval", f"cost, {_UNITS[cost]}", "GFLOPs", "encoder", "depth", "target hit %"]
    table = make_table(
        f"Fitted on {metrics.fit.fitted_on}\nScored on {metrics.scored_on}, {metrics.images:,} images",
        ["exits"],
        [*headings, f"% at exit {' '.join(map(str, exit_depths))}"],
        f"Gate less fixed mixture of equal {metrics.unit}: {points(metrics.lead, signed=True)} {measure}, "
        "95 % interval "
        f"{interval(metrics.lead_interval, signed=True)}."
        + reached_text(metrics.reached)
        + f"\n{points_note(measure)}",
    )
    for exit_ in metrics.fixed:
        name, hits = f"exit {exit_.exit_depth}", None
        if exit_.exit_depth == metrics.majority.exit_depth:
            name, hits = f"{name} (majority)", metrics.majority.accuracy
        if exit_.exit_depth == metrics.best_fixed.exit_depth:
            name += " (best)"
        _add(table, name, exit_, hits=hits)
    if metrics.blend is not None:
        _add(table, f"fixed mixture of equal {metrics.unit}", metrics.blend)
    _add(table, "random gate, same mixture", metrics.random)
    gate = metrics.gate
    _add(table, "gate", gate, interval(gate.pq_interval), gate.accuracy, style="bold")
    if metrics.attainable is not None:
        _add(table, "attainable (mirror's truth)", metrics.attainable)
    _add(table, "oracle at this beta", metrics.utility_oracle, hits=1.0)
    _add(table, "oracle of quality", metrics.oracle)
    return table


def recipe_table(metrics: GateMetrics, measure: str = "PQ") -> Table:
    """Lay out the recipes' gates beside each other: held out, and out of fold on the images fitted on."""
    headings = (measure, "GFLOPs", "lead held out", "95 % interval", "lead out of fold", "95 % interval")
    note = f"{points_note(measure)} Lead: over the best fixed mixture of equal {metrics.unit}."
    table = make_table(f"Recipes; taken: {metrics.recipe}", ["recipe"], headings, note)
    for name, recipe in metrics.recipes.items():
        seen = recipe.out_of_fold
        table.add_row(
            f"{name} (blend)" if recipe.blend else name,
            points(recipe.pq),
            plain(recipe.gflops),
            points(recipe.lead, signed=True),
            interval(recipe.lead_interval, signed=True),
            "" if seen is None else points(seen.lead, signed=True),
            "" if seen is None else interval(seen.interval, signed=True),
        )
    return table


def trade_off_table(
    seen: Sequence[TradeOffStep], chosen_beta: float, measure: str = "PQ", budget: BudgetSummary | None = None
) -> Table:
    """Lay out the betas that a search looked at, and where its gate stands with the budget."""
    caption = f"Chosen: beta {chosen_beta:.4g}, with an offset where a budget lies between two betas."
    if budget is not None:
        caption += (
            f" {budget.option} {budget.limit:g}: the gate takes {budget.reached:.4g} {budget.unit}; no gate takes less "
            f"than {budget.end:.4g}, which is {budget.limit - budget.end:.3g} below the budget."
        )
    caption += f"\n{points_note(measure)}"
    table = make_table("Trade-offs the search saw", [], ("beta", measure, "GFLOPs"), caption)
    for step in seen:
        table.add_row(plain(step.beta), points(step.pq), plain(step.gflops))
    return table


def head_table(heads: Mapping[str, HeadSummary], cost: CostName, unit: CostUnit, measure: str = "PQ") -> Table:
    """Lay out the comparison of heads; each is compared with a blend of its own cost."""
    headings = (measure, f"cost, {_UNITS[cost]}", "target hit %", "lead", "95 % interval")
    note = f"{points_note(measure)} Lead: over the best fixed mixture of equal {unit}."
    table = make_table("Heads at this beta", ["head"], headings, note)
    for name, head in heads.items():
        table.add_row(
            name,
            points(head.pq),
            plain(head.cost),
            points(head.accuracy),
            points(head.lead, signed=True),
            interval(head.lead_interval, signed=True),
        )
    return table


def _add(
    table: Table,
    name: str,
    choice: ChoiceSummary,
    pq_interval: str = "",
    hits: float | None = None,
    style: str | None = None,
) -> None:
    depth = choice.mean_depth
    table.add_row(
        name,
        points(choice.pq),
        pq_interval,
        plain(choice.cost),
        plain(choice.gflops),
        plain(choice.encoder_gflops),
        "-" if depth is None else f"{depth:.2f}",
        "" if hits is None else points(hits, 1),
        shares(choice.exit_shares),
        style=style,
    )
