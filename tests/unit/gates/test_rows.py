"""What an exit is worth to a gate, under each objective."""

from dataclasses import replace

import numpy as np
import pytest
from helpers_gate import random_table

from ecocli.config.fit_gate import ObjectiveName
from ecocli.gates.class_head import folds_of_rows
from ecocli.gates.rows import SplitData, TrainingRows
from ecocli.metrics.assignment import CountTable


def image_quality(table: CountTable) -> np.ndarray:
    """Mean over an image's own classes, written out; NaN where nothing occurs at an exit."""
    quality = np.full((table.num_images, table.num_exits), np.nan)
    for n in range(table.num_images):
        for e in range(table.num_exits):
            entries = (table.image == n) & (table.exit_index == e)
            if entries.any():
                quality[n, e] = (table.iou_sum[entries] / table.halves[entries]).mean()
    return quality


def split_of(table: CountTable, objective: ObjectiveName) -> SplitData:
    costs = np.tile(np.arange(2.0, 2.0 + table.num_exits), (table.num_images, 1))
    features = np.random.default_rng(0).standard_normal((table.num_images, 3)).astype(np.float16)
    return SplitData(image_quality(table), table, features, costs, costs, costs, objective)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_arena__dataset_objective__its_oracle_raises_the_dataset_pq_more(seed: int) -> None:
    # At beta 0 the oracle of the objective is the most a gate can hope for. Choosing by what an image does to the data
    # set's PQ must reach a higher one than choosing by the image's own PQ.
    table = random_table(seed, 200, 3, 5)
    reached = {
        objective: split_of(table, objective).arena((2, 3, 4), 10, 0).judge(table.fixed_assignment(0), 0.0, 0)
        for objective in ("image-pq", "dataset-pq")
    }
    assert reached["image-pq"].utility_oracle.pq == reached["image-pq"].oracle.pq
    assert reached["dataset-pq"].utility_oracle.pq > reached["image-pq"].utility_oracle.pq + 0.01


def test_training_rows__dataset_objective__learns_contributions_of_usable_images() -> None:
    table = random_table(3, 50, 3, 5)
    split = split_of(table, "dataset-pq")
    rows = TrainingRows.of(split)
    np.testing.assert_array_equal(rows.worth.numpy(), table.contributions()[split.usable])


def test_rows__some_images_kept__objective_stays() -> None:
    split = split_of(random_table(4, 20, 2, 3), "dataset-pq")
    kept = split.rows(np.arange(20) < 10)
    assert kept.objective == "dataset-pq"
    np.testing.assert_allclose(kept.worth, kept.counts.contributions())


def test_training_rows__mirror_images__follow_the_images_in_the_same_folds() -> None:
    image, other = (split_of(random_table(seed, 40, 3, 5), "dataset-pq") for seed in (5, 6))
    rng = np.random.default_rng(1)
    mirror = replace(other, features=rng.standard_normal((40, 3)).astype(np.float16))
    both = replace(image, mirror=mirror)
    usable = image.usable & mirror.usable
    assert 0 < usable.sum() < 40
    rows = TrainingRows.of(both, "contents", folds=4)
    count = int(usable.sum())
    assert (rows.images, len(rows.features.values), len(rows.split.features)) == (count, 2 * count, count)
    np.testing.assert_array_equal(rows.worth[:count].numpy(), image.worth[usable])
    np.testing.assert_array_equal(rows.worth[count:].numpy(), mirror.worth[usable])
    np.testing.assert_array_equal(rows.costs[:count].numpy(), rows.costs[count:].numpy())
    np.testing.assert_allclose(
        rows.raw.values[count:].numpy(), rows.raw.standardise(mirror.features[usable]).numpy(), atol=1e-6
    )
    dealt = folds_of_rows(count, 4, 0, rows.raw.copies)
    np.testing.assert_array_equal(dealt[:count].numpy(), dealt[count:].numpy())
    assert sorted(np.bincount(dealt[:count]).tolist()) == [count // 4 + (fold >= 4 - count % 4) for fold in range(4)]
    alone = TrainingRows.of(both, "contents", folds=4, mirrors=False)
    assert (alone.images, len(alone.features.values)) == (count, count)
