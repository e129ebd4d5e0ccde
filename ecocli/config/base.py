"""The base of every configuration and manifest: strict, frozen, nothing unknown accepted."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, strict Pydantic model; unknown keys are refused and defaults are validated.

    Sequences are tuples, so that a validated object can neither change nor be changed through a field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)
