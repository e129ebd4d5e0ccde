"""Derived seeds. The literal value pins the rule: changing it would change every published artifact."""

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecocli.runtime.seeds import derive_seed, numpy_generator, seed_everything, torch_generator


def test_derive_seed__literal__never_changes() -> None:
    # By hand: SHA-256 of the typed, length-prefixed parts, its first 8 bytes as a number, without the lowest bit.
    head = hashlib.sha256(b"s7:augmenti1:7").hexdigest()[:16]
    assert derive_seed("augment", 7) == int(head, 16) // 2 == 2615651769043667612


@pytest.mark.parametrize("one, other", [(("ab", "c"), ("a", "bc")), (("1",), (1,)), ((1, 2), (12,)), ((), ("",))])
def test_derive_seed__different_parts__differ(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert derive_seed(*one) != derive_seed(*other)


@given(st.lists(st.one_of(st.integers(), st.text())))
def test_derive_seed__any_parts__fits_63_bits(parts: list[int | str]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


def test_generators__same_parts__draw_the_same() -> None:
    assert torch.rand(3, generator=torch_generator("a", 1)).tolist() == (
        torch.rand(3, generator=torch_generator("a", 1)).tolist()
    )
    assert numpy_generator("a", 1).random(3).tolist() == numpy_generator("a", 1).random(3).tolist()


def test_generators__other_parts__draw_something_else() -> None:
    assert torch.rand(3, generator=torch_generator("a", 1)).tolist() != (
        torch.rand(3, generator=torch_generator("a", 2)).tolist()
    )
    assert numpy_generator("a", 1).random(3).tolist() != numpy_generator("a", 2).random(3).tolist()


def test_seed_everything__twice__draws_the_same_from_all_three() -> None:
    def draw() -> tuple[float, float, float]:
        seed_everything("init", 3)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    first = draw()
    random.random(), np.random.rand(), torch.rand(1)
    assert draw() == first
