"""Planning of test batches by padded size, and loading them in order."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers_inference import tiny_dataset, tiny_model

from ecocli.config.dataset import ResizeConfig
from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import DataError
from ecocli.runtime import background
from ecocli.runtime.interrupt import StopFlag, StopNowError
from ecocli.scoring import batches
from ecocli.scoring.batches import cut_batches, iterate_batches, padded_size, plan_batches, plan_dataset

KEEP = ResizeConfig()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PanopticDataset:
    return tiny_dataset(tmp_path_factory.mktemp("data"), val=5)


def test_padded_size__coco_rule__rounds_up_to_the_divisor() -> None:
    # By hand: 480 x 640 becomes 800 x 1067, padded to 800 x 1088 (the size that published figures name).
    assert padded_size((480, 640), ResizeConfig(short_edge_px=800, long_edge_px=1333)) == (800, 1088)
    assert padded_size((33, 64), KEEP) == (64, 64)


def test_plan_batches__mixed_sizes__never_mixes_padded_sizes_and_keeps_every_image() -> None:
    # By hand: sizes a (32 x 32 padded) at 0, 2, 4, 5 and b (64 x 32 padded) at 1, 3; at most 3 per batch.
    sizes = [(30, 20), (40, 20), (32, 32), (64, 32), (1, 1), (32, 1)]
    assert plan_batches(sizes, KEEP, 3) == [(0, 2, 4), (1, 3), (5,)]


def test_iterate_batches__five_scenes__loads_all_in_planned_order(dataset: PanopticDataset) -> None:
    model = tiny_model()
    loaded = list(iterate_batches(dataset, plan_dataset(dataset, KEEP, 2), KEEP, model, "cpu"))
    assert [batch.positions for batch in loaded] == [(0, 1), (2, 3), (4,)]
    ids = [image_id for batch in loaded for image_id in batch.images.image_ids]
    assert ids == [record.image_id for record in dataset.records]
    assert all(batch.images.images.shape[1:] == (3, 64, 64) for batch in loaded)
    last = dataset.records[4]
    assert np.array_equal(loaded[2].truths[0].panoptic_map, dataset.load_panoptic(last))
    assert loaded[2].truths[0].segments == last.segments


def test_cut_batches__large_images_on_a_cpu__go_one_by_one(dataset: PanopticDataset) -> None:
    planned = [(0, 1, 2), (3, 4)]
    assert list(cut_batches(planned, dataset, KEEP, "cpu")) == planned  # 64 x 64 pixels
    large = ResizeConfig(short_edge_px=800, long_edge_px=1333)
    assert list(cut_batches(planned, dataset, large, "cpu")) == [(0,), (1,), (2,), (3,), (4,)]
    assert list(cut_batches(planned, dataset, large, "cuda:1")) == planned


def test_iterate_batches__missing_image__names_the_file(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path, val=2)
    path = dataset.image_path(dataset.records[1])
    path.unlink()
    with pytest.raises(DataError, match=f"{path.name} is missing"):
        list(iterate_batches(dataset, [(0, 1)], KEEP, tiny_model(), "cpu"))


def test_iterate_batches__read_that_stalls__is_said_and_a_signal_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, model, forever = tiny_dataset(tmp_path), tiny_model(), threading.Event()
    monkeypatch.setattr(PanopticDataset, "load_image", lambda *_: forever.wait())
    monkeypatch.setattr(background, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(batches, "_PATIENCE_S", 0.1)
    with StopFlag() as stop:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(StopNowError), stop.interruptible():
            next(iterate_batches(dataset, [(0,)], ResizeConfig(), model, "cpu"))
    forever.set()
    assert str(dataset.image_path(dataset.records[0])) in caplog.text
