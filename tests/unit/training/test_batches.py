import itertools
import multiprocessing

import pytest
from helpers_training import DrawnSamples

from ecocli.data.sampler import ShuffledStream
from ecocli.errors import DataError, UsageError
from ecocli.training.batches import TrainingPart, load_parts
from ecocli.training.division import BatchDivision


def images_of(division: BatchDivision, *, first_step: int = 0, steps: int = 3, workers: int = 0) -> list[list[str]]:
    parts = load_parts(DrawnSamples(10), 5, division, first_step=first_step, steps=steps, workers=workers)
    return [part.image_ids for part in parts if isinstance(part, TrainingPart)]


def stream_of(count: int) -> list[str]:
    return [f"image-{index}" for _, index in itertools.islice(ShuffledStream(10, 5), count)]


def test_load_parts__one_process__follows_the_stream() -> None:
    # Three steps of 4 pass the end of the first epoch of 10 images.
    assert list(itertools.chain(*images_of(BatchDivision(4)))) == stream_of(12)


def test_load_parts__two_processes_two_parts__every_step_has_the_same_images() -> None:
    by_rank = [images_of(BatchDivision(4, rank, world_size=2, accumulation=2)) for rank in (0, 1)]
    assert [len(parts) for parts in by_rank] == [6, 6]
    for step in range(3):
        found = [image for parts in by_rank for part in parts[2 * step : 2 * step + 2] for image in part]
        assert sorted(found) == sorted(stream_of(12)[4 * step : 4 * step + 4])


def test_load_parts__resumed__goes_on_where_it_was() -> None:
    division = BatchDivision(4, rank=1, world_size=2)
    assert images_of(division, first_step=2) == images_of(division)[2:]


def test_load_parts__with_workers__same_parts_in_order() -> None:
    division = BatchDivision(2)
    assert images_of(division, workers=2) == images_of(division)


def test_load_parts__left_early__workers_end() -> None:
    parts = load_parts(DrawnSamples(10), 5, BatchDivision(2), first_step=0, steps=1000, workers=2)
    next(parts)
    assert len(multiprocessing.active_children()) == 2
    parts.close()
    assert multiprocessing.active_children() == []


def test_load_parts__positions__tell_places_in_the_stream() -> None:
    parts = load_parts(DrawnSamples(10), 5, BatchDivision(4, rank=1, world_size=2), first_step=1, steps=2, workers=0)
    (part,) = (part for part in parts if isinstance(part, TrainingPart))
    assert part.positions == (5, 7)
    assert part.image_ids == [stream_of(8)[5], stream_of(8)[7]]
    assert part.counts == [len(sample.labels) for sample in part.samples]


@pytest.mark.parametrize("workers", [0, 1])
def test_load_parts__unreadable_image__yields_its_error(workers: int) -> None:
    parts = list(load_parts(DrawnSamples(4, bad=2), 5, BatchDivision(2), first_step=0, steps=2, workers=workers))
    errors = [part for part in parts if isinstance(part, DataError)]
    assert [str(error) for error in errors] == ["image 2 cannot be read"]
    assert len(parts) == 2


def test_batch_division__with_rest__names_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"batch size is 6, expected a multiple of 4: 2 processes times 2"):
        BatchDivision(6, world_size=2, accumulation=2)
