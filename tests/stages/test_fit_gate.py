"""Fitting gates on generated tables: results, controls, prices and heads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_fit import DEPTHS, choices, fit, mean_gflops, store_of
from helpers_gate import derived_records

from ecocli.artifacts.derived_table import DerivedRecord, read_derived
from ecocli.artifacts.manifest import DerivedManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors
from ecocli.metrics.panoptic_quality import ImageCounts


@pytest.mark.parametrize(("head", "loss"), [("class", "hard-ce"), ("class", "soft-ce"), ("quality", "hard-ce")])
def test_run__features_that_tell__gate_beats_the_fixed_mixture(
    shared: tuple[Store, str], records: dict[str, list[DerivedRecord]], head: str, loss: str
) -> None:
    gate = fit(shared, beta=0.005, head=head, loss=loss)
    metrics: Any = gate.manifest.metrics.model_dump(mode="json")
    assert metrics["scored_on"] == "val"
    assert metrics["lead_interval"][0] > 0.002
    assert metrics["oracle"]["pq"] > metrics["gate"]["pq"] > metrics["blend"]["pq"]
    assert metrics["warnings"] == [] or "target exit" in metrics["warnings"][0]
    # The stored layer does what the metrics say, and PQ is that of the counts.
    chosen = choices(gate, records["val"])
    assert metrics["gate"]["exit_shares"] == [float(np.mean(chosen == e)) for e in range(3)]
    table = read_derived(
        shared[0].get(shared[1], DerivedManifest).path_of("val.parquet"),
        split="val",
        feature="res5",
        exit_depths=DEPTHS,
        rows=300,
    )
    assert metrics["gate"]["pq"] == pytest.approx(table.counts.assignment_quality(chosen), abs=1e-12)
    assert metrics["gate"]["gflops"] == pytest.approx(mean_gflops(records["val"], chosen) + 8 * 3 / 1e9, rel=1e-12)
    assert shared[0].names()["gate"] == gate.digest


def test_run__smaller_k__offers_the_first_exits_only(shared: tuple[Store, str]) -> None:
    gate = fit(shared, beta=0.0005, deepest_exit=3)
    assert gate.manifest.exit_depths == (2, 3)
    assert load_tensors(gate.path_of("gate.safetensors"))["linear.weight"].shape == (2, 8)
    assert [entry["exit_depth"] for entry in gate.manifest.metrics.model_dump(mode="json")["fixed"]] == [2, 3]


def test_run__k_of_the_shallowest_exit__is_a_constant_gate(shared: tuple[Store, str]) -> None:
    gate = fit(shared, beta=0.0, deepest_exit=2)
    assert gate.manifest.exit_depths == (2,)
    assert gate.manifest.metrics.model_dump(mode="json")["gate"]["exit_shares"] == [1.0]


def test_run__higher_beta__costs_less(shared: tuple[Store, str]) -> None:
    costs = [
        fit(shared, beta=beta).manifest.metrics.model_dump(mode="json")["gate"]["gflops"] for beta in (0.0, 0.01, 0.04)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]


def test_run__price_beyond_every_gain__takes_the_shallowest_exit_and_says_so(shared: tuple[Store, str]) -> None:
    metrics: Any = fit(shared, beta=1.0).manifest.metrics.model_dump(mode="json")
    assert metrics["gate"]["exit_shares"] == [1.0, 0.0, 0.0]
    assert "no better than a fixed mixture of equal GFLOPs" in metrics["warnings"][0]
    assert "sends every image to exit 2" in metrics["warnings"][1]


def test_run__quality_head__another_beta_needs_the_bias_alone(
    shared: tuple[Store, str], records: dict[str, list[DerivedRecord]]
) -> None:
    low, high = fit(shared, beta=0.001, head="quality"), fit(shared, beta=0.01, head="quality")
    one, other = (load_tensors(gate.path_of("gate.safetensors")) for gate in (low, high))
    torch.testing.assert_close(one["linear.weight"], other["linear.weight"], rtol=0, atol=0)
    assert low.manifest.exit_costs == (2.0, 3.0, 4.0)
    retargeted = one["linear.bias"] - (0.01 - 0.001) * torch.tensor(low.manifest.exit_costs)
    torch.testing.assert_close(retargeted, other["linear.bias"])
    assert (choices(low, records["val"]) != choices(high, records["val"])).any()


def test_run__cost_in_gflops__is_the_depths_gate_at_the_matching_price(
    shared: tuple[Store, str], records: dict[str, list[DerivedRecord]]
) -> None:
    # In these tables one layer costs 2 GFLOPs, so half the price per GFLOP is the same price.
    by_depth = fit(shared, beta=0.006, l2=0.01)
    by_gflops = fit(shared, beta=0.003, l2=0.01, cost="gflops")
    assert (choices(by_depth, records["val"]) == choices(by_gflops, records["val"])).all()
    assert by_gflops.manifest.exit_costs == pytest.approx((14.0, 16.0, 18.0))
    # GFLOPs hold the gate, 8 features and 3 exits, too.
    gate = by_gflops.manifest.metrics.gate
    assert gate.cost == pytest.approx(gate.gflops, rel=1e-12)
    assert gate.cost == pytest.approx(
        mean_gflops(records["val"], choices(by_gflops, records["val"])) + 24e-9, rel=1e-12
    )


def test_run__compare_heads__scores_all_three(shared: tuple[Store, str]) -> None:
    gate = fit(shared, beta=0.005, compare_heads=True)
    heads: Any = gate.manifest.metrics.model_dump(mode="json")["heads"]
    assert set(heads) == {"class", "quality", "mlp"}
    assert heads["class"]["pq"] == pytest.approx(gate.manifest.metrics.model_dump(mode="json")["gate"]["pq"])
    assert all(entry["lead"] > 0.002 for entry in heads.values())


def test_run__gate_as_dear_as_a_step_between_exits__every_lead_is_over_the_next_exit(tmp_path: Path) -> None:
    # By hand: 8 features and 3 exits cost 24e-9 GFLOPs, here as much as one layer. On every image the exits have 0.6,
    # 0.7 and 0.8; at a price beyond that all take the first, and what they and the gate cost buys all the second.
    none = np.zeros(3, np.int64)

    def alike(record: DerivedRecord, n: int) -> DerivedRecord:
        one = np.eye(3, dtype=np.int64)[n % 3]
        counts = tuple(ImageCounts(one * iou, one, none, none) for iou in (0.6, 0.7, 0.8))
        return replace(record, counts=counts, gflops=tuple(24e-9 * depth for depth in DEPTHS))

    splits = {
        name: [alike(record, n) for n, record in enumerate(derived_records(seed, 60))]
        for seed, name in enumerate(("train", "val"))
    }
    gate = fit(store_of(tmp_path, splits), beta=1.0, head="quality", compare_heads=True)
    metrics: Any = gate.manifest.metrics.model_dump(mode="json")
    assert metrics["gate"]["exit_shares"] == [1.0, 0.0, 0.0]
    assert metrics["gate"]["gflops"] == pytest.approx(72e-9)
    assert metrics["gate"]["cost"] == 2.0  # layers do not hold the gate
    heads = {name: entry["lead"] for name, entry in metrics["heads"].items()}
    assert heads == pytest.approx({"class": -0.1, "quality": -0.1, "mlp": -0.1})
    out_of_fold = metrics["recipes"]["paper"]["out_of_fold"]
    assert (metrics["lead"], out_of_fold["lead"]) == pytest.approx((-0.1, -0.1))
    assert out_of_fold["interval"] == pytest.approx([-0.1, -0.1])
    assert out_of_fold["deviation"] == pytest.approx(0.0, abs=1e-12)


def test_run__same_request_twice__is_reused(shared: tuple[Store, str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit(shared, beta=0.007)
    monkeypatch.setattr("ecocli.stages.fit_gate.work.fit", None)
    assert fit(shared, beta=0.007).digest == first.digest


def test_fit_gate__nothing_to_win__is_the_blend_and_says_so(shared: tuple[Store, str]) -> None:
    # In these tables contents have nothing to do with the features, so a gate through contents cannot lead.
    gate = fit(shared, recipe="contents", beta=0.003)
    metrics = gate.manifest.metrics
    assert metrics.recipes["contents"].blend
    assert metrics.warnings[0].startswith("Nothing is to be won by looking at the image")
    assert metrics.lead == pytest.approx(0.0, abs=1e-4)
    assert set(metrics.recipes) == {"contents", "paper"}
    assert metrics.recipes["paper"].lead is not None
