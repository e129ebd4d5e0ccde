"""Which layers an exit runs. Expected values worked by hand."""

import pytest

from ecocli.exits import ExitPlan

PLAIN = ExitPlan(6, (1, 2, 3, 4, 5, 6))
# Lite-M2F: layer 6 follows every exit (arXiv 2404.15244, section 3).
LITE = ExitPlan(6, (1, 2, 3, 4, 5), tail=(5,))


@pytest.mark.parametrize(
    ("plan", "depth", "expected"), [(PLAIN, 2, (0, 1)), (PLAIN, 6, (0, 1, 2, 3, 4, 5)), (LITE, 2, (0, 1, 5))]
)
def test_layers_of__exit__its_layers_and_the_tail(plan: ExitPlan, depth: int, expected: tuple[int, ...]) -> None:
    assert plan.layers_of(depth) == expected


def test_idle__some_exits__layers_of_none_of_them() -> None:
    assert PLAIN.idle((2, 4)) == (4, 5)
    assert LITE.idle((2, 3)) == (3, 4)
    assert LITE.idle((5,)) == ()


def test_renumber__cut_at_an_exit__tail_moves_up() -> None:
    assert LITE.renumber(2) == {0: 0, 1: 1, 5: 2}


@pytest.mark.parametrize(
    ("plan", "expected"), [(PLAIN, (2, 3, 4, 5, 6)), (LITE, (2, 3, 4, 5)), (ExitPlan(1, (1,)), (1,))]
)
def test_default_depths__of_an_encoder__from_two_on_where_there_are(plan: ExitPlan, expected: tuple[int, ...]) -> None:
    assert plan.default_depths() == expected


@pytest.mark.parametrize("depths", [(), (0,), (2, 6)])
def test_check__no_exit__says_which_there_are(depths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="an encoder with 6 layers, which can be left after 1, 2, 3, 4, 5; give"):
        LITE.check(depths)
