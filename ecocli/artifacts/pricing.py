"""The price of compute at which a fitted gate chooses."""

from ecocli.artifacts.manifest import GateManifest
from ecocli.config.exported import GateEntry
from ecocli.errors import UsageError


def check_price(gate: GateManifest | GateEntry, digest: str, beta: float | None) -> None:
    """Make sure that a gate can choose at a price.

    Raises:
        UsageError: It predicts the exit itself, which it does at one price only.
    """
    if beta is not None and gate.head != "quality":
        raise UsageError(
            f"--beta chooses the price of a gate that predicts quality, but the gate {digest} predicts the exit "
            f"itself, at beta {gate.beta:g} only. Fit one with `eco fit-gate --head quality`, or drop --beta."
        )
