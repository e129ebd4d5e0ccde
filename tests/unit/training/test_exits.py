import pytest

from ecocli.training.exits import StepExits, choose_exits

DEPTHS, ALPHA = (2, 3, 4, 5, 6), (2.0, 3.0, 4.0, 5.0, 6.0)


def test_choose_exits__all__unchanged() -> None:
    assert choose_exits(DEPTHS, ALPHA, 5, seed=0, step=7) == StepExits(DEPTHS, ALPHA)


@pytest.mark.parametrize("count", [1, 2])
def test_choose_exits__some_of_many_steps__mean_weight_is_alpha(count: int) -> None:
    # Law: the expected weight of every exit is its alpha. 4,000 draws; 6 standard errors of the mean at most.
    sums = dict.fromkeys(DEPTHS, 0.0)
    for step in range(4000):
        drawn = choose_exits(DEPTHS, ALPHA, count, seed=1, step=step)
        assert len(drawn.depths) == count
        assert list(drawn.depths) == sorted(set(drawn.depths))
        for depth, weight in zip(drawn.depths, drawn.weights, strict=True):
            sums[depth] += weight / 4000
    for depth, alpha in zip(DEPTHS, ALPHA, strict=True):
        chance = count / 5
        assert sums[depth] == pytest.approx(alpha, abs=6 * alpha * ((1 - chance) / chance / 4000) ** 0.5)


def test_choose_exits__same_seed_and_step__same_exits() -> None:
    draws = [choose_exits(DEPTHS, ALPHA, 2, seed=3, step=step) for step in range(20)]
    assert draws == [choose_exits(DEPTHS, ALPHA, 2, seed=3, step=step) for step in range(20)]
    assert draws != [choose_exits(DEPTHS, ALPHA, 2, seed=4, step=step) for step in range(20)]


def test_choose_exits__deepest_kept__in_every_step_and_mean_weight_is_alpha() -> None:
    # Law: exit 6 keeps its alpha; each other is drawn in 1 of 4 steps at 4 times its alpha. 6 standard errors.
    sums = dict.fromkeys(DEPTHS, 0.0)
    for step in range(4000):
        drawn = choose_exits(DEPTHS, ALPHA, 2, seed=1, step=step, keep_deepest=True)
        assert len(drawn.depths) == 2
        assert drawn.depths[-1] == 6
        assert drawn.weights[-1] == 6.0
        sums[drawn.depths[0]] += drawn.weights[0] / 4000
    for depth, alpha in zip(DEPTHS[:-1], ALPHA[:-1], strict=True):
        assert sums[depth] == pytest.approx(alpha, abs=6 * alpha * (3 / 4000) ** 0.5)


def test_choose_exits__deepest_alone__plain_step_of_the_deepest() -> None:
    # Law: such a step is that of a model with one exit, whatever the weights and the draw.
    for kept in (False, True):
        found = choose_exits(DEPTHS, ALPHA, 2, seed=1, step=3, keep_deepest=kept, deepest_alone=True)
        assert found == StepExits((6,), (1.0,))
