"""Milliseconds of each exit, as ``--profile`` and ``--exit-ms`` give them."""

import math

from ecocli.artifacts.manifest import DerivedManifest
from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.errors import UsageError


def read_exit_ms(store: Store, derived: str, profile: str | None, listed: str | None) -> list[float] | None:
    """Return the milliseconds of each of the parent's exits, or None where neither option was given.

    Args:
        derived: Digest of the derived tables, whose exits are meant.
        profile: Reference of a profile or an evaluation that measured them.
        listed: The numbers themselves, comma-separated.

    Raises:
        UsageError: Both were given, or the numbers cannot be read, or the artifact lacks them.
    """

    if profile is not None and listed is not None:
        raise UsageError("--profile and --exit-ms exclude each other: give one of them.")
    if listed is not None:
        exits = store.get(derived, DerivedManifest).manifest.exit_depths
        try:
            numbers = [float(item) for item in listed.split(",")]
        except ValueError as error:
            raise UsageError(f"--exit-ms is {listed!r}, expected numbers such as 30.5,34,38.") from error
        if len(numbers) != len(exits) or not all(0 < number < math.inf for number in numbers):
            raise UsageError(
                f"--exit-ms is {listed!r}, expected one positive number for each of the exits "
                f"{', '.join(map(str, exits))}."
            )
        return numbers
    if profile is None:
        return None
    depths = store.get(derived, DerivedManifest).manifest.exit_depths
    digest = resolve(store, profile, None)
    measured = store.read_provenance(digest).ms_per_image
    times = [measured[f"exit {depth}"] for depth in depths if f"exit {depth}" in measured]
    if len(times) != len(depths):
        raise UsageError(
            f"The artifact {digest} has no milliseconds of every exit ({', '.join(map(str, depths))}). Measure them "
            "with `eco profile`, and name the profile with --profile."
        )
    return times
