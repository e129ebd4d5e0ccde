from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import Scene, two_halves, write_custom

from ecocli.config.dataset import AugmentationConfig, DatasetConfig
from ecocli.data.categories import COCO
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import PanopticDataset
from ecocli.data.training import TrainingDataset
from ecocli.errors import DataError

STILL = AugmentationConfig(flip_ratio=0.0)


@pytest.fixture
def dataset(tmp_path: Path) -> PanopticDataset:
    """Image 1: two segments; image 2: one segment and a crowd; image 3: a crowd alone; image 4: nothing."""
    rng = np.random.default_rng(0)
    crowded = two_halves(2, (300, 1), (70000, 199))
    alone = Scene(3, np.full((6, 8), 5, np.int32), {5: 1}, crowd_ids=[5])
    scenes = [
        two_halves(1, (300, 90), (70000, 92)),
        Scene(2, crowded.id_map, crowded.category_of, crowd_ids=[300]),
        alone,
        Scene(4, np.zeros((6, 8), np.int32), {}),
    ]
    for scene in scenes:
        scene.image = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return open_dataset(DatasetConfig(name=str(write_custom(tmp_path, scenes, COCO))), "val")


def test_training_dataset__plain_image__class_ranks_and_masks(dataset: PanopticDataset) -> None:
    sample = TrainingDataset(dataset, STILL, seed=0)[(0, 0)]
    # Ranks of 90 (last thing) and 92 (first stuff).
    assert sample.labels.tolist() == [79, 80]
    left = torch.zeros(6, 8, dtype=torch.bool)
    left[1:, :4] = True
    right = torch.zeros(6, 8, dtype=torch.bool)
    right[1:, 4:] = True
    assert torch.equal(sample.masks, torch.stack([left, right]))
    assert sample.image_id == "1"
    expected = dataset.load_image(dataset.records[0]).transpose(2, 0, 1)
    assert np.array_equal(sample.image.numpy(), expected)


def test_training_dataset__crowd__gives_no_mask(dataset: PanopticDataset) -> None:
    sample = TrainingDataset(dataset, STILL, seed=0)[(0, 1)]
    assert sample.labels.tolist() == [dataset.class_index[199]]
    assert not sample.masks[:, :, :4].any()


@pytest.mark.parametrize("index", [2, 3], ids=["crowd_alone", "nothing"])
def test_training_dataset__nothing_to_learn__stays_with_zero_masks(dataset: PanopticDataset, index: int) -> None:
    sample = TrainingDataset(dataset, STILL, seed=0)[(0, index)]
    assert sample.image.shape == (3, 6, 8)
    assert sample.labels.shape == (0,)
    assert sample.labels.dtype == torch.int64
    assert sample.masks.shape == (0, 6, 8)
    assert sample.masks.dtype == torch.bool


def test_training_dataset__flip__image_and_masks_together(dataset: PanopticDataset) -> None:
    plain = TrainingDataset(dataset, STILL, seed=0)[(0, 0)]
    flipped = TrainingDataset(dataset, AugmentationConfig(flip_ratio=1.0), seed=0)[(0, 0)]
    assert torch.equal(flipped.image, plain.image.flip(-1))
    assert torch.equal(flipped.masks, plain.masks.flip(-1))


RANDOM = AugmentationConfig(scale_range=(0.3, 2.0), crop_height_px=16, crop_width_px=16, color="mild")


def test_training_dataset__same_key__same_sample_in_any_order(dataset: PanopticDataset) -> None:
    keys = [(0, 0), (0, 1), (1, 0), (7, 1)]
    one = TrainingDataset(dataset, RANDOM, seed=3)
    forward = {key: one[key] for key in keys}
    other = TrainingDataset(dataset, RANDOM, seed=3, cache=True)
    for key in [*reversed(keys), *keys]:
        assert torch.equal(other[key].image, forward[key].image)
        assert torch.equal(other[key].masks, forward[key].masks)


def test_training_dataset__other_epoch_or_seed__other_sample(dataset: PanopticDataset) -> None:
    images = [TrainingDataset(dataset, RANDOM, seed=seed)[(epoch, 0)].image for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_training_dataset__loader_workers__same_samples(dataset: PanopticDataset) -> None:
    keys = [(0, 0), (0, 1), (1, 0)]
    training = TrainingDataset(dataset, RANDOM, seed=3)
    direct = [training[key].image for key in keys]
    loader = torch.utils.data.DataLoader(
        training,
        sampler=keys,  # type: ignore[arg-type]  # any iterable of keys will do
        batch_size=None,
        num_workers=1,
        multiprocessing_context="fork",
    )
    assert all(torch.equal(sample.image, image) for sample, image in zip(loader, direct, strict=True))


@pytest.mark.parametrize("keep, count", [(True, 2), (False, 1)])
def test_training_dataset__segment_cropped_away__kept_or_dropped(
    dataset: PanopticDataset, keep: bool, count: int
) -> None:
    # A crop of 6 x 4 out of 6 x 8; seed chosen so that the window is the left half.
    recipe = AugmentationConfig(flip_ratio=0.0, crop_height_px=6, crop_width_px=4, keep_empty_masks=keep)
    samples = (TrainingDataset(dataset, recipe, seed=seed)[(0, 0)] for seed in range(40))
    sample = next(sample for sample in samples if sample.masks[0, 1:].all())
    assert sample.masks.shape == (count, 6, 4)
    assert sample.labels.tolist() == [79, 80][:count]


def test_training_dataset__cached__file_read_once(dataset: PanopticDataset) -> None:
    training = TrainingDataset(dataset, STILL, seed=0, cache=True)
    first = training[(0, 0)]
    dataset.image_path(dataset.records[0]).unlink()
    assert torch.equal(training[(1, 0)].masks, first.masks)


@pytest.mark.parametrize("ids", [(254, 255), (255, 256)])
def test_training_dataset__cached_ids_about_a_byte__same_masks(tmp_path: Path, ids: tuple[int, int]) -> None:
    scene = two_halves(1, (ids[0], 90), (ids[1], 92))
    opened = open_dataset(DatasetConfig(name=str(write_custom(tmp_path, [scene], COCO))), "val")
    training = TrainingDataset(opened, STILL, seed=0, cache=True)
    first, again = training[(0, 0)].masks, training[(1, 0)].masks
    assert first.sum(dim=(1, 2)).tolist() == [20, 20]
    assert torch.equal(again, first)


def test_training_dataset__damaged_png__data_error(dataset: PanopticDataset) -> None:
    dataset.panoptic_path(dataset.records[0]).write_bytes(b"no PNG")
    with pytest.raises(DataError, match="cannot be decoded"):
        TrainingDataset(dataset, STILL, seed=0)[(0, 0)]


def test_training_dataset__len__images(dataset: PanopticDataset) -> None:
    assert len(TrainingDataset(dataset, STILL, seed=0)) == 4
