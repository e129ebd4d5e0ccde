"""Images kept out of Step A: a law of their ids alone."""

from pathlib import Path

import pytest
from helpers_inference import tiny_dataset

from ecocli.data.hold_out import is_held_out, training_part
from ecocli.errors import DataError


def test_is_held_out__digests_of_sha256sum__are_compared_with_the_share() -> None:
    # printf 139 | sha256sum begins with 8d27ba37c5d81010, 0.55138 of the range; a with ca978112ca1bbdca, 0.79137.
    assert [is_held_out("139", share) for share in (0.0, 0.5513, 0.5514, 0.999)] == [False, False, True, True]
    assert [is_held_out("a", share) for share in (0.7913, 0.7914)] == [False, True]


def test_is_held_out__many_ids__the_share_of_them_and_the_smaller_within_the_larger() -> None:
    ids = [str(number) for number in range(20_000)]
    small, large = ({one for one in ids if is_held_out(one, share)} for share in (0.1, 0.2))
    assert small < large
    # Four deviations of a binomial of 20,000 draws.
    assert abs(len(small) / 20_000 - 0.1) < 0.0085
    assert abs(len(large) / 20_000 - 0.2) < 0.0113


def test_training_part__any_order_and_company__leaves_out_the_same_ids(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path, val=12)
    ids = dataset.records.image_ids
    expected = [one for one in ids if not is_held_out(one, 0.4)]
    assert 0 < len(expected) < 12
    assert training_part(dataset, 0.4).records.image_ids == expected
    for order in (list(range(11, -1, -1)), [3, 7, 1]):
        some = type(dataset)(**{**vars(dataset), "records": dataset.records.take(order)})
        kept = training_part(some, 0.4).records.image_ids
        assert kept == [ids[index] for index in order if ids[index] in expected]
    assert training_part(dataset, 0.0) is dataset
    # What identifies the split stays that of the whole.
    assert training_part(dataset, 0.4).annotation_file == dataset.annotation_file


def test_training_part__nothing_left__says_so(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path, val=2)
    with pytest.raises(DataError, match=r"hold_out is 0\.9999 and leaves none of the 2 images of val .* smaller share"):
        training_part(dataset, 0.9999)
