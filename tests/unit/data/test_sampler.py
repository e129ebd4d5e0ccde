import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocli.data.sampler import ShuffledStream


def head(stream: ShuffledStream, count: int) -> list[tuple[int, int]]:
    return list(itertools.islice(stream, count))


def test_shuffled_stream__epochs__each_image_once_in_changing_order() -> None:
    keys = head(ShuffledStream(10, seed=1), 30)
    epochs = [[index for epoch, index in keys if epoch == wanted] for wanted in range(3)]
    assert all(sorted(order) == list(range(10)) for order in epochs)
    assert epochs[0] != epochs[1]


def test_shuffled_stream__other_seed__other_order() -> None:
    assert head(ShuffledStream(50, seed=1), 50) != head(ShuffledStream(50, seed=2), 50)


@given(num_images=st.integers(1, 12), world_size=st.integers(1, 5), start_step=st.integers(0, 20))
def test_shuffled_stream__ranks__deal_out_the_one_stream(num_images: int, world_size: int, start_step: int) -> None:
    start = start_step * world_size
    whole = head(ShuffledStream(num_images, seed=7), start + 6 * world_size)[start:]
    ranks = [
        head(ShuffledStream(num_images, seed=7, rank=rank, world_size=world_size, start=start), 6)
        for rank in range(world_size)
    ]
    assert [key for step in zip(*ranks, strict=True) for key in step] == whole


def test_shuffled_stream__iterated_again__same_beginning() -> None:
    stream = ShuffledStream(5, seed=0, start=3)
    assert head(stream, 9) == head(stream, 9)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_images": 0}, "num_images is 0, expected at least 1"),
        ({"rank": 2, "world_size": 2}, "rank is 2, expected 0 to world_size - 1 = 1"),
        ({"start": 3, "world_size": 2}, "start is 3, expected a multiple of world_size = 2"),
        ({"start": -2}, "start is -2, expected a multiple"),
    ],
)
def test_shuffled_stream__out_of_range__value_error(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShuffledStream(**{"num_images": 4, "seed": 0, **settings})
