"""How numbers are written in tables and pages. PQ is in points (0 to 100)."""

from collections.abc import Iterable, Sequence

from ecocli.config.rules import BOX_RULES

_LEAST_SHARE = 0.005  # less is 0 % when it is written


def points(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Write a ratio in points, or a dash."""
    return "-" if value is None else f"{100 * value:{'+' if signed else ''}z.{digits}f}"


def points_note(measure: str) -> str:
    """Say what the numbers of a table of PQ or AP are, and of AP whose rules it follows."""
    return f"{measure} in points (0 to 100)." + (f" {BOX_RULES}" if measure == "AP" else "")


def interval(ends: Sequence[float | None], *, signed: bool = False) -> str:
    """Write an interval of ratios in points."""
    return f"[{points(ends[0], signed=signed)}, {points(ends[1], signed=signed)}]"


def plain(value: float | None) -> str:
    """Write a cost with four digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def shares(values: Iterable[float]) -> str:
    """Write shares in per cent."""
    return " ".join(f"{100 * value:.0f}" for value in values)


def mixture(values: Iterable[float], exit_depths: Iterable[int], *, all_exits: bool = False, joint: str = " + ") -> str:
    """Write a mixture of exits, without those that it leaves out unless all are wanted."""
    return joint.join(
        f"{100 * share:.0f} % exit {depth}"
        for share, depth in zip(values, exit_depths, strict=True)
        if all_exits or share >= _LEAST_SHARE
    )


def reached_text(reached: float | None) -> str:
    """Say what share of the attainable lead a gate has, where that was measured."""
    if reached is None:
        return ""
    return (
        f" It reaches {100.0 * reached:.0f} % of what is attainable: the lead of the exits that the truth about the "
        "mirror images would choose."
    )
