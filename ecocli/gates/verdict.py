"""A gate's verdict as JSON data for manifests, and the warnings it gives rise to. PQ stays in 0..1."""

import math
from collections.abc import Sequence

from pydantic import JsonValue

from ecocli.metrics.controls import Choice, Verdict


def choice_json(choice: Choice) -> dict[str, JsonValue]:
    """Write one way of choosing exits; NaN becomes null."""
    return {
        "pq": number(choice.pq),
        "cost": number(choice.cost),
        "gflops": number(choice.gflops),
        "encoder_gflops": number(choice.encoder_gflops),
        "mean_depth": number(choice.mean_depth),
        "exit_shares": list(choice.exit_shares),
    }


def verdict_json(verdict: Verdict, exit_depths: Sequence[int]) -> dict[str, JsonValue]:
    """Write a gate beside its controls; exits are named by depth."""
    return {
        "gate": {
            **choice_json(verdict.gate),
            "pq_interval": _interval(verdict.pq_interval),
            "accuracy": number(verdict.accuracy),
        },
        "fixed": [{"exit_depth": d, **choice_json(c)} for d, c in zip(exit_depths, verdict.fixed, strict=True)],
        "best_fixed": {"exit_depth": exit_depths[verdict.best_fixed], **choice_json(verdict.fixed[verdict.best_fixed])},
        "majority": {
            "exit_depth": exit_depths[verdict.majority],
            **choice_json(verdict.fixed[verdict.majority]),
            "accuracy": number(verdict.majority_accuracy),
        },
        "blend": None if verdict.blend is None else choice_json(verdict.blend),
        "lead": number(verdict.lead),
        "lead_interval": _interval(verdict.lead_interval),
        "random": {**choice_json(verdict.random), "pq_spread": number(verdict.random_spread)},
        "oracle": choice_json(verdict.oracle),
        "utility_oracle": choice_json(verdict.utility_oracle),
    }


def warnings_of(verdict: Verdict, exit_depths: Sequence[int], scored_images: int) -> list[str]:
    """Say in plain words where a gate's result is not what it seems."""
    found = []
    if not verdict.beats_blend:
        low, high = (100.0 * value for value in verdict.lead_interval)
        found.append(
            f"The gate is no better than a fixed mixture of equal cost: its lead is {100.0 * verdict.lead:+.2f} PQ, "
            f"95 % interval [{low:+.2f}, {high:+.2f}] over {scored_images} images. Its exits could be drawn by chance."
        )
    taken = [depth for depth, share in zip(exit_depths, verdict.gate.exit_shares, strict=True) if share > 0.0]
    if len(taken) == 1 and len(exit_depths) > 1:
        found.append(f"The gate sends every image to exit {taken[0]}: it does not look at the image.")
    if verdict.accuracy < verdict.majority_accuracy:
        found.append(
            f"The gate takes the target exit on {100.0 * verdict.accuracy:.1f} % of the images; always taking exit "
            f"{exit_depths[verdict.majority]} would on {100.0 * verdict.majority_accuracy:.1f} %."
        )
    return found


def number(value: float) -> float | None:
    """Write a number for JSON, which knows no NaN."""
    return None if math.isnan(value) else float(value)


def _interval(interval: tuple[float, float]) -> JsonValue:
    return [number(interval[0]), number(interval[1])]
