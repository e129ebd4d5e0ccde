"""Learning rate schedules as pure functions of the step, so that a resumed run needs no schedule state.

Source: detectron2's ``WarmupMultiStepLR`` and ``WarmupPolyLR``, which the published recipes use. Difference:
milestones are fractions of the run, so that a shorter run keeps its shape.
"""

import math

from ecocli.config.train_parent import ScheduleConfig


def learning_rate_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Return the factor of the peak learning rate at a step.

    Args:
        step: Steps already done, from 0.
    """
    return _warmup(schedule, step) * _decay(schedule, step, steps)


def _warmup(schedule: ScheduleConfig, step: int) -> float:
    if step >= schedule.warmup_steps:
        return 1.0
    done = step / schedule.warmup_steps
    return schedule.warmup_factor * (1.0 - done) + done


def _decay(schedule: ScheduleConfig, step: int, steps: int) -> float:
    progress = step / max(steps, 1)
    if schedule.kind == "step":
        passed = sum(step >= round(ratio * steps) for ratio in schedule.milestone_ratios)
        return float(schedule.gamma**passed)
    if schedule.kind == "polynomial":
        return float((1.0 - progress) ** schedule.power)
    if schedule.kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0
