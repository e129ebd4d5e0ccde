"""A gate's verdict as manifests record it, and the warnings it gives rise to. PQ stays in 0..1."""

from collections.abc import Sequence
from dataclasses import asdict

from ecocli.artifacts.summaries import (
    ChoiceSummary,
    ExitSummary,
    GateSummary,
    MajoritySummary,
    RandomSummary,
    VerdictSummary,
)
from ecocli.metrics.controls import Verdict


def verdict_summary(verdict: Verdict, exit_depths: Sequence[int]) -> VerdictSummary:
    """Write a gate beside its controls; exits are named by depth."""
    fixed = tuple(
        ExitSummary(exit_depth=depth, **asdict(choice))
        for depth, choice in zip(exit_depths, verdict.fixed, strict=True)
    )
    return VerdictSummary(
        unit=verdict.unit,
        gate=GateSummary(**asdict(verdict.gate), pq_interval=verdict.pq_interval, accuracy=verdict.accuracy),
        fixed=fixed,
        best_fixed=fixed[verdict.best_fixed],
        majority=MajoritySummary(**dict(fixed[verdict.majority]), accuracy=verdict.majority_accuracy),
        blend=None if verdict.blend is None else ChoiceSummary(**asdict(verdict.blend)),
        lead=verdict.lead,
        lead_interval=verdict.lead_interval,
        random=RandomSummary(**asdict(verdict.random), pq_spread=verdict.random_spread),
        oracle=ChoiceSummary(**asdict(verdict.oracle)),
        utility_oracle=ChoiceSummary(**asdict(verdict.utility_oracle)),
        attainable=None if verdict.attainable is None else ChoiceSummary(**asdict(verdict.attainable)),
        reached=verdict.reached,
    )


def warnings_of(
    verdict: Verdict, exit_depths: Sequence[int], scored_images: int, blind: bool = False, measure: str = "PQ"
) -> list[str]:
    """Say in plain words where a gate's result is not what it seems."""
    if blind:
        shares = zip(exit_depths, verdict.gate.exit_shares, strict=True)
        blend = " and ".join(f"exit {depth} on {100.0 * share:.0f} %" for depth, share in shares if share > 0.0)
        return [
            "Nothing is to be won by looking at the image: out of fold the gate leads the blend of fixed exits by less "
            f"than its standard error. The result is that blend: {blend} of the images, by a seed."
        ]
    found = []
    if not verdict.beats_blend:
        low, high = (100.0 * value for value in verdict.lead_interval)
        found.append(
            f"The gate is no better than a fixed mixture of equal {verdict.unit}: its lead is "
            f"{100.0 * verdict.lead:+.2f} {measure}, 95 % interval [{low:+.2f}, {high:+.2f}] over {scored_images} "
            "images. Its exits could be drawn by chance."
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
