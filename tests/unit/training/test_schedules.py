import pytest

from ecocli.config.recipes import TRAIN_PARENT_PRESETS
from ecocli.config.train_parent import ScheduleConfig
from ecocli.training.schedules import learning_rate_factor


def test_learning_rate_factor__coco_recipe__drops_at_published_steps() -> None:
    # Origin: Mask2Former's COCO recipe, steps at 327,778 and 355,092 of 368,750.
    recipe = TRAIN_PARENT_PRESETS["coco"]
    schedule, steps = ScheduleConfig(**recipe["schedule"]), recipe["steps"]
    found = [learning_rate_factor(schedule, step, steps) for step in (0, 327_777, 327_778, 355_091, 355_092, 368_749)]
    assert found == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_learning_rate_factor__cityscapes_recipe__decays_with_power() -> None:
    # By hand: half way, (1 - 1/2) ** 0.9.
    recipe = TRAIN_PARENT_PRESETS["cityscapes"]
    schedule = ScheduleConfig(**recipe["schedule"])
    assert learning_rate_factor(schedule, 45_000, recipe["steps"]) == pytest.approx(0.5358867)


def test_learning_rate_factor__warmup__rises_linearly_to_the_decay() -> None:
    # By hand: from 0.2 to 1 in 4 steps.
    schedule = ScheduleConfig(kind="constant", warmup_steps=4, warmup_factor=0.2)
    found = [learning_rate_factor(schedule, step, 100) for step in range(6)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_learning_rate_factor__cosine__one_half_and_nearly_zero() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_steps=0)
    found = [learning_rate_factor(schedule, step, 1000) for step in (0, 500, 999)]
    assert found == pytest.approx([1.0, 0.5, 2.467e-6], rel=1e-3)
