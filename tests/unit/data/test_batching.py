import numpy as np
import pytest
import torch

from ecocli.data.batching import make_batch, make_training_batch
from ecocli.data.training import TrainingSample

MEAN, STD = (100.0, 50.0, 0.0), (10.0, 5.0, 2.0)


def test_make_batch__two_sizes__normalised_and_padded_with_zero() -> None:
    # Worked by hand: (120 - 100) / 10 = 2, (60 - 50) / 5 = 2, (6 - 0) / 2 = 3; sizes 33 x 20 and 10 x 40 make 64 x 64.
    first = np.broadcast_to(np.array([120, 60, 6], np.uint8), (33, 20, 3)).copy()
    second = np.broadcast_to(np.array([100, 50, 0], np.uint8), (10, 40, 3)).copy()
    batch = make_batch([first, second], MEAN, STD, 32, original_sizes=[(66, 40), (5, 20)], image_ids=["a", "b"])
    assert batch.images.shape == (2, 3, 64, 64)
    assert torch.equal(batch.images[0, :, :33, :20], torch.tensor([2.0, 2.0, 3.0]).view(3, 1, 1).expand(3, 33, 20))
    assert not batch.images[0, :, 33:].any()
    assert not batch.images[0, :, :, 20:].any()
    assert not batch.images[1].any()
    assert batch.image_sizes == ((33, 20), (10, 40))
    assert batch.original_sizes == ((66, 40), (5, 20))
    assert batch.image_ids == ("a", "b")


def test_make_batch__fitting_size__not_padded() -> None:
    images = [np.full((32, 64, 3), value, np.uint8) for value in (100, 110)]
    batch = make_batch(images, MEAN, STD)
    assert batch.images.shape == (2, 3, 32, 64)
    assert batch.images[:, 0, 5, 7].tolist() == [0.0, 1.0]
    assert batch.original_sizes == batch.image_sizes == ((32, 64), (32, 64))
    assert batch.image_ids == ("0", "1")


def test_make_batch__flipped_view__accepted() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    batch = make_batch([image[:, ::-1]], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1)
    assert torch.equal(batch.images[0], torch.tensor(image.transpose(2, 0, 1).copy()).flip(-1).float())


def test_make_batch__empty__value_error() -> None:
    with pytest.raises(ValueError, match="a batch needs at least one image, found none"):
        make_batch([], MEAN, STD)


def test_make_training_batch__samples__same_as_make_batch() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((8, 9), (7, 12))]
    samples = [
        TrainingSample(
            torch.from_numpy(image.transpose(2, 0, 1).copy()),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros((0, *image.shape[:2]), dtype=torch.bool),
            str(position),
        )
        for position, image in enumerate(images)
    ]
    batch, expected = make_training_batch(samples, MEAN, STD, 4), make_batch(images, MEAN, STD, 4)
    assert torch.equal(batch.images, expected.images)
    assert (batch.image_sizes, batch.image_ids) == (expected.image_sizes, expected.image_ids)
