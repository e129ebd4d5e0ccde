"""Fitting on tables with little in them, damaged ones, and requests that do not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers_fit import DEPTHS, choices, fit, store_of
from helpers_gate import derived_records, put_derived

from ecocli.artifacts.derived_table import DerivedRecord, read_split
from ecocli.artifacts.lineage import check_tables
from ecocli.artifacts.manifest import DerivedManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.fit_gate import FitGateConfig
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.metrics.panoptic_quality import ImageCounts


def test_run__no_val_table__scores_on_rows_held_out(tmp_path: Path) -> None:
    metrics: Any = fit(store_of(tmp_path, {"train": derived_records(2, 200)}), beta=0.005).manifest.metrics.model_dump(
        mode="json"
    )
    assert (metrics["scored_on"], metrics["images"]) == ("a fifth of train", 40)
    assert metrics["fit"]["training_images"] == 160


def test_run__two_rows_and_no_other_table__one_is_fitted_on_and_one_scored(tmp_path: Path) -> None:
    metrics = fit(store_of(tmp_path, {"train": derived_records(2, 2)}), beta=0.005).manifest.metrics
    assert (metrics.fit.training_images, metrics.images) == (1, 1)


def test_run__another_seed__holds_other_rows_out(tmp_path: Path) -> None:
    shared = store_of(tmp_path, {"train": derived_records(2, 50)})
    one, again, other = (fit(shared, beta=0.005, l2=l2, seed=seed) for l2, seed in ((1.0, 0), (0.1, 0), (1.0, 1)))
    assert one.manifest.metrics.fixed == again.manifest.metrics.fixed
    assert one.manifest.metrics.fixed != other.manifest.metrics.fixed


def test_run__scored_on_the_split_that_is_fitted_on__a_fifth_of_it_is_kept_apart(shared: tuple[Store, str]) -> None:
    metrics = fit(shared, beta=0.005, score_split="train").manifest.metrics
    assert metrics.scored_on == "a fifth of train"
    assert (metrics.fit.training_images, metrics.images) == (320, 80)


def test_run__milliseconds_known__gates_are_compared_in_them_only_where_they_are_the_cost(
    shared: tuple[Store, str],
) -> None:
    by_depth, by_ms = (
        fit(shared, beta=0.005, exit_ms=(5.0, 6.0, 7.0), **cost).manifest.metrics
        for cost in ({}, {"cost": "ms"})  # a layer costs a millisecond: both gates choose alike
    )
    assert (by_depth.unit, by_ms.unit) == ("GFLOPs", "ms")
    assert by_depth.gate.exit_shares == by_ms.gate.exit_shares
    assert by_ms.gate.cost == pytest.approx(by_depth.gate.cost + 3.0)


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
    with pytest.raises(UsageError, match=r"has the splits train, val, expected 'vla' to score on\. .* or say none"):
        fit(shared, beta=0.0, score_split="vla")
    with pytest.raises(
        UsageError, match=r"Milliseconds are known for 0 of the 3 exits\. Measure them with `eco profile`"
    ):
        fit(shared, beta=0.0, cost="ms")


@pytest.mark.parametrize("aims", [{}, {"beta": 0.1, "target_ms": 3.0}])
def test_fit_gate_config__no_aim_or_two__names_them(aims: dict[str, float]) -> None:
    found = " and ".join(aims) or "none of them"
    with pytest.raises(ValueError, match=f"give exactly one of beta, target_gflops, .*; found {found}"):
        FitGateConfig(**aims)


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
