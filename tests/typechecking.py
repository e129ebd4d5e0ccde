"""The run-time type checker of the test session: beartype, brought in line with mypy in two points."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

# mypy lets an int stand for a float; without this option a call that mypy accepts would fail in tests.
_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's arguments and result in every call."""
    try:
        return _CHECK(function)
    except BeartypeDecorHintPep673Exception:
        # jaxtyping decorates methods one by one, and beartype understands Self only inside a decorated class.
        return function


def modules_with_shapes() -> list[str]:
    """Names of the package's modules that import jaxtyping."""
    root = Path(__file__).resolve().parents[1]
    found = [path for path in (root / "ecocli").rglob("*.py") if "from jaxtyping import" in path.read_text("utf-8")]
    return sorted(".".join(path.relative_to(root).with_suffix("").parts) for path in found)
