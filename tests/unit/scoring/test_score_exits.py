"""Rows of the derived table, against the metric applied step by step."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers_inference import EXIT_DEPTHS, RULE, own_truth, tiny_dataset, tiny_model

from ecocli.config.dataset import ResizeConfig
from ecocli.errors import DataError
from ecocli.inference.predictor import predict_exits
from ecocli.metrics.panoptic_quality import count_panoptic_image, image_pq
from ecocli.model.gate import pool_features
from ecocli.model.mask2former import Mask2Former
from ecocli.scoring.batches import LabelledBatch, TruePanoptic, load_batch
from ecocli.scoring.score_exits import score_exits


@pytest.fixture(scope="module")
def model() -> Mask2Former:
    return tiny_model()


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, model: Mask2Former) -> LabelledBatch:
    dataset = tiny_dataset(tmp_path_factory.mktemp("data"), val=3)
    return load_batch(dataset, range(3), ResizeConfig(), model, "cpu")


def test_derive_rows__three_images__holds_counts_features_and_sizes(model: Mask2Former, batch: LabelledBatch) -> None:
    with torch.no_grad():
        features = model.extract(batch.images.images)
        exits = list(predict_exits(model, features, batch.images, EXIT_DEPTHS))
        pooled = pool_features(features, list(batch.images.image_sizes))
    truths = tuple(own_truth(prediction) for prediction in exits[-1])
    rows = score_exits(model, batch.images, truths, EXIT_DEPTHS, RULE)
    assert [row.image_id for row in rows] == list(batch.images.image_ids)
    assert all(row.padded_size == row.original_size == (64, 64) for row in rows)
    for position, (row, truth) in enumerate(zip(rows, truths, strict=True)):
        expected = []
        for exit_index in range(len(EXIT_DEPTHS)):
            found, segments = exits[exit_index][position].panoptic(RULE)
            expected.append(
                count_panoptic_image(found, segments, truth.panoptic_map, truth.segments, RULE.category_ids)
            )
        for counts, wanted in zip(row.counts, expected, strict=True):
            assert counts.iou_sum.tolist() == wanted.iou_sum.tolist()
            assert (counts.tp.tolist(), counts.fp.tolist()) == (wanted.tp.tolist(), wanted.fp.tolist())
        assert row.pq == tuple(image_pq(counts) for counts in expected)
        for name, features_row in row.features.items():
            assert features_row.dtype == np.float16
            assert features_row.tolist() == pooled[name][position].tolist()  # nothing lost by float16
    # The deepest exit's own maps are the truth here: it is right about everything, the others are not.
    assert all(row.pq[-1] == 1.0 for row in rows)
    assert all(row.pq[0] < 1.0 for row in rows)


def test_derive_rows__observer__sees_every_image_at_every_exit(model: Mask2Former, batch: LabelledBatch) -> None:
    seen = []
    rows = score_exits(
        model,
        batch.images,
        batch.truths,
        (1, 3),
        RULE,
        lambda position, exit_index, scored: seen.append(
            (position, exit_index, scored.prediction.exit_depth, scored.counts)
        ),
    )
    assert [s[:3] for s in seen] == [(0, 0, 1), (1, 0, 1), (2, 0, 1), (0, 1, 3), (1, 1, 3), (2, 1, 3)]
    assert all(counts is rows[position].counts[exit_index] for position, exit_index, _, counts in seen)


def test_derive_rows__contradictory_truth__names_the_image(model: Mask2Former, batch: LabelledBatch) -> None:
    first = batch.truths[0]
    unknown = dataclasses.replace(first.segments[0], category_id=99)
    truths = (TruePanoptic(first.panoptic_map, (unknown, *first.segments[1:])), *batch.truths[1:])
    with pytest.raises(DataError, match=f"Image {batch.images.image_ids[0]}: ground-truth segment .* category 99"):
        score_exits(model, batch.images, truths, EXIT_DEPTHS, RULE)
