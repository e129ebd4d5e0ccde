"""The test session checks annotated types and shapes at run time; otherwise they would be mere comments."""

import jaxtyping
import numpy as np
import pytest

from ecocli.metrics.assignment import oracle_assignment
from ecocli.metrics.bootstrap import percentile_interval


def test_import_hook__wrong_type__is_refused() -> None:
    with pytest.raises(
        jaxtyping.TypeCheckError, match=r"parameters of ecocli\.metrics\.bootstrap\.percentile_interval"
    ):
        percentile_interval(np.zeros(3), "0.95")  # type: ignore[arg-type]


def test_import_hook__wrong_shape__is_refused() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match=r"Float64\[ndarray, 'N E'\]"):
        oracle_assignment(np.zeros(3))


def test_import_hook__int_for_float__is_accepted_as_by_mypy() -> None:
    assert percentile_interval(np.zeros(3), 1) == (0.0, 0.0)
