"""Gates fitted to a budget of compute or of quality: kept to, spent, or refused with what is feasible."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_fit import choices, fit, mean_gflops
from helpers_gate import derived_records, put_derived

from ecocli.artifacts.derived_table import DerivedRecord
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors
from ecocli.errors import UsageError


@pytest.mark.parametrize("head", ["class", "quality"])
@pytest.mark.parametrize("target", [14.5, 16.0, 17.0])
def test_run__target_gflops__spends_the_budget_and_no_more(
    shared: tuple[Store, str], records: dict[str, list[DerivedRecord]], head: str, target: float
) -> None:
    gate = fit(shared, target_gflops=target, head=head, l2=0.01 if head == "class" else None)
    spent = mean_gflops(records["val"], choices(gate, records["val"])) + 8 * 3 / 1e9
    # One image of 300 moves the mean by at most (18 - 14) / 300.
    assert target - 4 / 300 - 1e-6 <= spent <= target
    metrics: Any = gate.manifest.metrics.model_dump(mode="json")
    trade_off = metrics["trade_off"]
    assert len(trade_off) >= 3
    budget = metrics["budget"]
    assert (budget["option"], budget["unit"], budget["limit"]) == ("--target-gflops", "GFLOPs", target)
    assert budget["reached"] == pytest.approx(spent)
    # Every image at exit 2, and the gate.
    assert budget["end"] == pytest.approx(14.0 + 8 * 3 / 1e9)
    assert [step["beta"] for step in trade_off] == sorted(step["beta"] for step in trade_off)


def test_run__quality_head_on_a_budget__its_beta_is_the_price_in_its_biases(shared: tuple[Store, str]) -> None:
    gate = fit(shared, target_gflops=15.5, head="quality")
    priced = fit(shared, beta=gate.manifest.beta, head="quality")
    found, expected = (load_tensors(one.path_of("gate.safetensors"))["linear.bias"] for one in (gate, priced))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_run__target_gflops_above_every_exit__takes_beta_zero(shared: tuple[Store, str]) -> None:
    gate = fit(shared, target_gflops=1000.0, l2=0.01)
    assert gate.manifest.beta == 0.0
    assert gate.manifest.metrics.model_dump(mode="json")["fit"]["offset"] == 0.0


def test_run__target_ms__is_counted_in_the_given_milliseconds(
    shared: tuple[Store, str], records: dict[str, list[DerivedRecord]]
) -> None:
    exit_ms = (30.0, 37.0, 50.0)
    gate = fit(shared, target_ms=40.0, head="quality", exit_ms=exit_ms, cost="ms")
    chosen = choices(gate, records["val"])
    assert 40.0 - 20.0 / 300 <= np.array(exit_ms)[chosen].mean() <= 40.0
    assert gate.manifest.exit_costs == exit_ms


def test_run__target_ms_of_the_cheapest_exit__is_feasible_and_takes_that(shared: tuple[Store, str]) -> None:
    metrics = fit(shared, target_ms=5.0, head="quality", exit_ms=(5.0, 6.0, 7.0)).manifest.metrics
    assert metrics.gate.exit_shares == (1.0, 0.0, 0.0)
    assert metrics.budget is not None
    assert (metrics.budget.reached, metrics.budget.end) == (5.0, 5.0)


@pytest.mark.parametrize("head", ["class", "quality"])
def test_run__max_pq_drop__keeps_to_it_and_saves(shared: tuple[Store, str], head: str) -> None:
    metrics: Any = fit(
        shared, max_pq_drop=0.4, head=head, l2=0.01 if head == "class" else None
    ).manifest.metrics.model_dump(mode="json")
    deepest = metrics["fixed"][-1]
    assert metrics["gate"]["pq"] >= deepest["pq"] - 0.004
    assert metrics["gate"]["gflops"] < deepest["gflops"] - 1.0
    budget = metrics["budget"]
    assert budget["reached"] == pytest.approx(100 * (deepest["pq"] - metrics["gate"]["pq"]))
    assert budget["end"] <= budget["reached"] <= budget["limit"] == 0.4
    # A price a little higher would have lost more: the next one seen did.
    later = [step for step in metrics["trade_off"] if step["pq"] < deepest["pq"] - 0.004]
    assert later


def test_run__infeasible_budgets__say_what_is_feasible(shared: tuple[Store, str]) -> None:
    with pytest.raises(UsageError, match=r"--target-gflops is 13, .* exit 2, .* costs 14 GFLOPs .* are 14 to 18"):
        fit(shared, target_gflops=13.0)
    with pytest.raises(UsageError, match=r"--target-ms is 1, .* costs 5 ms on average\. Feasible are 5 to 7"):
        fit(shared, target_ms=1.0, exit_ms=(5.0, 6.0, 7.0))
    with pytest.raises(
        UsageError, match=r"at exit 3, the cheapest, already costs 5 ms on average\. Feasible are 5 to 7"
    ):
        fit(shared, target_ms=1.0, exit_ms=(6.0, 5.0, 7.0))
    with pytest.raises(UsageError, match=r"--max-pq-drop is 0.001 points, .* loses [\d.]+ points .* Allow at least"):
        fit(shared, max_pq_drop=0.001, deepest_exit=2)


def test_run__loss_that_one_recipe_cannot_keep_to__takes_the_other(shared: tuple[Store, str]) -> None:
    # Contents tell nothing in these tables, so that recipe is the blend, which may take the deepest exit throughout and
    # loses nothing; the paper's gate takes a few images for easy that are not, whatever the price.
    asked = {"max_pq_drop": 1e-6, "head": "class", "l2": 1.0}
    metrics = fit(shared, **asked).manifest.metrics
    assert set(metrics.recipes) == {"contents"}
    assert metrics.recipe == "contents"
    assert metrics.budget is not None
    assert metrics.budget.reached <= 1e-6


def test_run__no_loss_allowed__takes_the_highest_price_that_costs_nothing(shared: tuple[Store, str]) -> None:
    # The deepest exit throughout loses exactly nothing, and is that blend up to some price above 0.
    gate = fit(shared, max_pq_drop=0.0, head="class", l2=1.0)
    metrics = gate.manifest.metrics
    assert metrics.gate.exit_shares == (0.0, 0.0, 1.0)
    assert metrics.budget is not None
    assert metrics.budget.reached == 0.0
    assert gate.manifest.beta > 0.0


def test_fit_gate__budget__takes_the_recipe_that_leads_out_of_fold(
    shared: tuple[Store, str], records: dict[str, list[DerivedRecord]]
) -> None:
    gate = fit(shared, recipe="contents", target_gflops=15.5)
    assert gate.manifest.metrics.recipe == "paper"
    assert gate.manifest.feature == "res5"
    assert gate.manifest.head == "class"
    assert mean_gflops(records["val"], choices(gate, records["val"])) == pytest.approx(15.5, rel=0.01)


def test_fit_gate__budget_and_features_that_tell_nothing__takes_the_blend_not_a_gate_that_loses(tmp_path: Path) -> None:
    def shuffled(seed: int, images: int) -> list[DerivedRecord]:
        found = derived_records(seed, images)
        order = np.random.default_rng(seed).permutation(images)
        return [replace(record, features=found[n].features) for record, n in zip(found, order, strict=True)]

    store = Store(tmp_path / "store")
    digest = put_derived(store, tmp_path, {"train": shuffled(5, 120), "val": shuffled(1, 120)})
    metrics = fit((store, digest), recipe="contents", target_gflops=15.5).manifest.metrics
    paper = metrics.recipes["paper"].out_of_fold
    assert paper is not None
    assert paper.lead < paper.deviation
    assert metrics.recipe == "contents"
    assert metrics.recipes["contents"].blend
