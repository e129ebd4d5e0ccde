"""The test session checks annotated types and shapes at run time; otherwise they would be mere comments."""

import jaxtyping
import pytest

from ecocli.runtime.progress import format_duration
from ecocli.runtime.seeds import derive_seed


def test_import_hook__wrong_type__is_refused() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match=r"parameters of ecocli\.runtime\.seeds\.derive_seed"):
        derive_seed(1.5)  # type: ignore[arg-type]


def test_import_hook__int_for_float__is_accepted_as_by_mypy() -> None:
    assert format_duration(60) == "0:01:00"
