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
