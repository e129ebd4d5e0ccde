"""The price of compute at which a fitted gate chooses: refused, changed and told here alone.

A gate that predicts quality has its price in its biases, so another price is no fit. Axes: G exits of the gate.
"""

import numpy as np
from jaxtyping import Float64

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


def price_of(gate: GateManifest | GateEntry, beta: float | None) -> float:
    """The price that a gate chooses at: the one wanted, or else the one in its biases."""
    return gate.beta if beta is None else beta


def biases_at(
    gate: GateManifest | GateEntry, digest: str, biases: Float64[np.ndarray, " G"], beta: float | None
) -> Float64[np.ndarray, " G"]:
    """Biases with which a gate chooses at another price.

    Args:
        biases: As they are stored, with the gate's own price taken off.
        beta: The wanted price of one unit of cost; None for the gate's own.

    Raises:
        UsageError: See `check_price`.
    """
    wanted = price_of(gate, beta)
    if wanted == gate.beta:
        return biases
    check_price(gate, digest, beta)
    return biases - (wanted - gate.beta) * np.array(gate.exit_costs)
