"""A gate's price: kept, changed or refused."""

import numpy as np
import pytest
from helpers_store import gate_manifest

from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.pricing import biases_at, check_price, price_of
from ecocli.errors import UsageError

BIASES = np.array([0.48, 0.50, 0.50])


def fitted(**changes: object) -> GateManifest:
    known = {"head": "quality", "exit_depths": (2, 4, 6), "exit_costs": (2.0, 4.0, 6.0)}
    return gate_manifest(0.01).model_copy(update={**known, **changes})


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (None, [0.48, 0.50, 0.50]),
        (0.01, [0.48, 0.50, 0.50]),
        (0.0, [0.50, 0.54, 0.56]),  # 0.01 per layer given back
        (0.03, [0.44, 0.42, 0.38]),  # 0.02 per layer more
    ],
)
def test_biases_at__any_price__quality_less_that_price_of_each_exit(beta: float | None, expected: list[float]) -> None:
    np.testing.assert_allclose(biases_at(fitted(), "sha256:1", BIASES, beta), expected, rtol=0, atol=1e-12)
    assert price_of(fitted(), beta) == (0.01 if beta is None else beta)


def test_biases_at__gate_of_one_price__keeps_its_own_and_refuses_others() -> None:
    gate = fitted(head="class", exit_costs=())
    check_price(gate, "sha256:1", None)
    for beta in (None, 0.01):
        np.testing.assert_array_equal(biases_at(gate, "sha256:1", BIASES, beta), BIASES)
    with pytest.raises(UsageError, match=r"the gate sha256:1 predicts the exit itself, at beta 0\.01 only"):
        biases_at(gate, "sha256:1", BIASES, 0.02)
