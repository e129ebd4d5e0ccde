"""Fitting gates on generated tables: results, controls, budgets, degenerate and damaged tables."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers_gate import derived_records, put_derived
from helpers_stages import run_stage

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.derived_table import DerivedRecord, read_derived, read_split
from ecocli.artifacts.lineage import check_tables
from ecocli.artifacts.manifest import DerivedManifest, GateManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.fit_gate import FitGateConfig
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.metrics.assignment import assignment_pq
from ecocli.metrics.panoptic_quality import ImageCounts
from ecocli.runtime.context import Runtime
from ecocli.stages import fit_gate

DEPTHS = (2, 3, 4)


@pytest.fixture(scope="module")
def records() -> dict[str, list[DerivedRecord]]:
    return {"train": derived_records(0, 400), "val": derived_records(1, 300)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, records: dict[str, list[DerivedRecord]]) -> tuple[Store, str]:
    folder = tmp_path_factory.mktemp("fit")
    store = Store(folder / "store")
    return store, put_derived(store, folder, records)


def fit(shared: tuple[Store, str], **settings: Any) -> Artifact[GateManifest]:
    config = FitGateConfig(**{"recipe": "paper", "bootstrap_replicates": 50, "folds": 3, **settings})
    return run_stage(fit_gate, config, {"derived": shared[1]}, shared[0], Runtime.quiet())


def choices(gate: Artifact[GateManifest], records: Sequence[DerivedRecord]) -> np.ndarray:
    """What inference does: the stored layer on the stored features."""
    state = load_tensors(gate.path_of("gate.safetensors"))
    raw = np.stack([record.features[gate.manifest.feature] for record in records]).astype(np.float32)
    scores = torch.from_numpy(raw) @ state["linear.weight"].T + state["linear.bias"]
    return scores.argmax(dim=1).numpy()


def mean_gflops(records: Sequence[DerivedRecord], chosen: np.ndarray) -> float:
    return float(np.mean([record.gflops[e] for record, e in zip(records, chosen, strict=True)]))


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
    assert metrics["gate"]["pq"] == pytest.approx(assignment_pq(table.counts, chosen), abs=1e-12)
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
    assert "no better than a fixed mixture of equal cost" in metrics["warnings"][0]
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


def test_run__cost_in_gflops__is_the_depths_gate_at_the_matching_price(
    shared: tuple[Store, str], records: dict[str, list[DerivedRecord]]
) -> None:
    # In these tables one layer costs 2 GFLOPs, so half the price per GFLOP is the same price.
    by_depth = fit(shared, beta=0.006, l2=0.01)
    by_gflops = fit(shared, beta=0.003, l2=0.01, cost="gflops")
    assert (choices(by_depth, records["val"]) == choices(by_gflops, records["val"])).all()
    assert by_gflops.manifest.exit_costs == pytest.approx((14.0, 16.0, 18.0))


def test_run__compare_heads__scores_all_three(shared: tuple[Store, str]) -> None:
    gate = fit(shared, beta=0.005, compare_heads=True)
    heads: Any = gate.manifest.metrics.model_dump(mode="json")["heads"]
    assert set(heads) == {"class", "quality", "mlp"}
    assert heads["class"]["pq"] == pytest.approx(gate.manifest.metrics.model_dump(mode="json")["gate"]["pq"])
    assert all(entry["lead"] > 0.002 for entry in heads.values())


def test_run__same_request_twice__is_reused(shared: tuple[Store, str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = fit(shared, beta=0.007)
    monkeypatch.setattr("ecocli.stages.fit_gate.work.fit", None)
    assert fit(shared, beta=0.007).digest == first.digest


# Tables with little in them


def store_of(tmp_path: Path, splits: dict[str, list[DerivedRecord]], **options: Any) -> tuple[Store, str]:
    store = Store(tmp_path / "store")
    return store, put_derived(store, tmp_path, splits, **options)


def test_run__no_val_table__scores_on_rows_held_out(tmp_path: Path) -> None:
    metrics: Any = fit(store_of(tmp_path, {"train": derived_records(2, 200)}), beta=0.005).manifest.metrics.model_dump(
        mode="json"
    )
    assert (metrics["scored_on"], metrics["images"]) == ("a fifth of train", 40)
    assert metrics["fit"]["training_images"] == 160


def test_run__rows_without_quality__teach_nothing_but_are_scored(tmp_path: Path) -> None:
    records = derived_records(3, 60)
    nothing = ImageCounts.zeros(3)
    empty = [replace(record, counts=(nothing,) * 3) for record in records[:10]]
    shared = store_of(tmp_path, {"train": [*empty, *records[10:]], "val": [*empty, *records[10:]]})
    metrics: Any = fit(shared, beta=0.005).manifest.metrics.model_dump(mode="json")
    assert (metrics["fit"]["training_images"], metrics["fit"]["left_out_images"]) == (50, 10)
    assert (metrics["images"], metrics["undefined_images"]) == (60, 10)
    # Images without a segment add nothing to the data set's PQ: without them the gate is the same.
    (tmp_path / "b").mkdir()
    alone = fit(store_of(tmp_path / "b", {"train": records[10:], "val": records[10:]}), beta=0.005)
    assert metrics["gate"]["pq"] == pytest.approx(
        alone.manifest.metrics.model_dump(mode="json")["gate"]["pq"], abs=1e-12
    )


def test_run__no_row_with_quality__is_refused(tmp_path: Path) -> None:
    empty = [replace(record, counts=(ImageCounts.zeros(3),) * 3) for record in derived_records(4, 6)]
    with pytest.raises(DataError, match="None of the 6 images of the training table has a defined quality"):
        fit(store_of(tmp_path, {"train": empty, "val": empty}), beta=0.0)


@pytest.mark.parametrize("head", ["class", "quality"])
def test_run__fewer_rows_than_features__gives_a_gate(tmp_path: Path, head: str) -> None:
    shared = store_of(tmp_path, {"train": derived_records(5, 6, features=8), "val": derived_records(6, 30)})
    gate = fit(shared, beta=0.005, head=head)
    state = load_tensors(gate.path_of("gate.safetensors"))
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("head", ["class", "quality"])
def test_run__one_row__gives_a_constant_gate(tmp_path: Path, head: str) -> None:
    records = derived_records(7, 1)
    gate = fit(store_of(tmp_path, {"train": records, "val": records}), beta=0.02, head=head)
    target = int(np.argmax([c.iou_sum.sum() - 0.02 * d for c, d in zip(records[0].counts, DEPTHS, strict=True)]))
    assert set(choices(gate, derived_records(8, 20))) == {target}


# Tables and requests that do not fit


def test_run__nan_feature__names_split_row_and_column(tmp_path: Path) -> None:
    records = derived_records(9, 12)
    records[5].features["res5"][3] = np.nan
    with pytest.raises(ArtifactError, match=r"split 'train' is damaged: feature 3 of row 5 is nan"):
        fit(store_of(tmp_path, {"train": records, "val": derived_records(10, 4)}), beta=0.0)


def test_run__manifest_of_other_exits__is_refused(tmp_path: Path) -> None:
    shared = store_of(tmp_path, {"train": derived_records(11, 9)}, exit_depths=(2, 3, 4, 5))
    with pytest.raises(ArtifactError, match=r"has rows of 3 exits, expected 4 \(depths 2, 3, 4, 5\)"):
        fit(shared, beta=0.0)


def test_run__row_missing__is_refused(tmp_path: Path) -> None:
    def drop_first(table: pa.Table) -> pa.Table:
        return table.slice(1)

    with pytest.raises(ArtifactError, match="it has 8 rows, expected 9"):
        fit(store_of(tmp_path, {"train": derived_records(12, 9)}, change=drop_first), beta=0.0)


def test_check_tables__tables_of_another_parent__are_refused(shared: tuple[Store, str]) -> None:
    check_tables(*shared, "sha256:" + "1" * 64)
    with pytest.raises(ArtifactError, match=r"derived from the parent sha256:1+, not from sha256:2+\. Name the tables"):
        check_tables(*shared, "sha256:" + "2" * 64)


def test_run__k_out_of_range__says_what_there_is(shared: tuple[Store, str]) -> None:
    with pytest.raises(UsageError, match=r"--K is 7, but the parent's deepest exit is 4 \(its exits: 2, 3, 4\)"):
        fit(shared, beta=0.0, deepest_exit=7)
    with pytest.raises(UsageError, match=r"--K is 1, but the parent's shallowest exit is 2"):
        fit(shared, beta=0.0, deepest_exit=1)


def test_run__unknown_split_or_milliseconds__say_what_there_is(shared: tuple[Store, str]) -> None:
    with pytest.raises(UsageError, match=r"has the splits train, val, expected 'test' to fit on"):
        fit(shared, beta=0.0, train_split="test")
    with pytest.raises(
        UsageError, match=r"Milliseconds are known for 0 of the 3 exits\. Measure them with `eco profile`"
    ):
        fit(shared, beta=0.0, cost="ms")


@pytest.mark.parametrize("aims", [{}, {"beta": 0.1, "target_ms": 3.0}])
def test_fit_gate_config__no_aim_or_two__names_them(aims: dict[str, float]) -> None:
    found = " and ".join(aims) or "none of them"
    with pytest.raises(ValueError, match=f"give exactly one of beta, target_gflops, .*; found {found}"):
        FitGateConfig(**aims)


def test_fit_gate__nothing_to_win__is_the_blend_and_says_so(shared: tuple[Store, str]) -> None:
    # In these tables contents have nothing to do with the features, so a gate through contents cannot lead.
    gate = fit(shared, recipe="contents", beta=0.003)
    metrics = gate.manifest.metrics
    assert metrics.recipes["contents"].blend
    assert metrics.warnings[0].startswith("Nothing is to be won by looking at the image")
    assert metrics.lead == pytest.approx(0.0, abs=1e-4)
    assert set(metrics.recipes) == {"contents", "paper"}
    assert metrics.recipes["paper"].lead is not None


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


# Contents that tell little: a table must give a gate, or be refused with what to do.


def odd_table(kind: str) -> list[DerivedRecord]:
    """Fifty images: of one class alone; the first ten without a segment; one image alone with a second class."""
    records = []
    for n, record in enumerate(derived_records(0, 50)):
        counts = []
        for exit_counts in record.counts:
            place = 0 if kind != "rare" or n != 3 else 1
            one = np.zeros(2, np.int64)
            one[place] = 0 if kind == "empty" and n < 10 else 1
            none = np.zeros(2, np.int64)
            counts.append(ImageCounts(one * exit_counts.iou_sum.sum(), one, none, none))
        records.append(replace(record, counts=tuple(counts)))
    return records


@pytest.mark.parametrize("kind", ["one class", "empty", "rare"])
def test_fit_gate__contents_that_tell_little__give_a_gate_or_the_blend(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path / "store")
    records = odd_table(kind)
    digest = put_derived(store, tmp_path, {"train": records, "val": records})
    for head in ("quality", "class"):
        metrics = fit((store, digest), recipe="contents", beta=0.003, head=head).manifest.metrics
        assert np.isfinite([metrics.gate.pq, metrics.lead]).all()
        assert metrics.fit.left_out_images == (10 if kind == "empty" else 0)
        if kind == "one class":  # contents are one constant: nothing to look at
            assert metrics.recipes["contents"].blend


def test_fit_gate__table_without_the_feature__says_derive_again_and_leaves_the_recipe_out(
    tmp_path: Path, records: dict[str, list[DerivedRecord]]
) -> None:
    store = Store(tmp_path / "store")
    old = {
        split: [replace(one, features={"res5": one.features["res5"]}) for one in rows[:60]]
        for split, rows in records.items()
    }
    digest = put_derived(store, tmp_path, old, feature_sizes={"res5": 8})
    with pytest.raises(UsageError, match=r"has the features res5, expected 'tokens'\. .* or derive the table again"):
        fit((store, digest), recipe="contents", beta=0.001)
    assert set(fit((store, digest), beta=0.001).manifest.metrics.recipes) == {"paper"}


def test_fit_gate__table_of_before_there_was_seen__does_not_say(
    tmp_path: Path, records: dict[str, list[DerivedRecord]]
) -> None:
    store = Store(tmp_path / "store")
    digest = put_derived(
        store, tmp_path, {"train": records["train"][:60]}, change=lambda table: table.drop_columns(["seen"])
    )
    fitted_on = fit((store, digest), beta=0.001).manifest.metrics.fit.fitted_on
    assert fitted_on == "train, 48 images; the parent does not say whether it has seen them"


def test_read_split__stored_features__are_read_whole_or_refused(
    tmp_path: Path, records: dict[str, list[DerivedRecord]]
) -> None:
    store, some = Store(tmp_path / "store"), {"train": records["train"][:20]}
    derived = store.get(put_derived(store, tmp_path, some), DerivedManifest)
    found = read_split(derived, "train", "res5").features
    np.testing.assert_array_equal(found, np.stack([record.features["res5"] for record in some["train"]]))
    other = put_derived(store, tmp_path, some, feature_sizes={"res5": 9})
    with pytest.raises(ArtifactError, match="its feature res5 has 8 numbers, expected 9 as its manifest says"):
        read_split(store.get(other, DerivedManifest), "train", "res5")
