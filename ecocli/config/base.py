"""The base of every configuration and manifest: strict, frozen, nothing unknown accepted."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_LARGEST = 2**63 - 1
_LARGEST_SIDE_PX = 1 << 16


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int):
        yield value


class Config(BaseModel):
    """Frozen, strict Pydantic model; unknown keys are refused and defaults are validated.

    Sequences are tuples, so that a validated object can neither change nor be changed through a field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _numbers_that_can_be_computed_with(self) -> "Config":
        for name, value in self:
            limit = _LARGEST_SIDE_PX if name.endswith("_px") or name == "sizes" else _LARGEST
            if any(abs(number) > limit for number in _numbers(value)):
                raise ValueError(f"{name} holds a number beyond {limit:,}")
        return self
