"""Provenance: where, when and with which versions an artifact was made. Recorded beside it, outside its digest."""

import datetime
import functools
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Self

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from ecocli.artifacts.profile_summary import InputLatency
from ecocli.config.base import Config

_PACKAGES = ("ecocli", "torch", "numpy", "scipy", "pillow", "pyarrow", "safetensors", "pydantic")


class Provenance(Config):
    """Where, when, with what and how fast an artifact was made.

    Stages add notes of their own, for people: what other code reads has a type here.

    Attributes:
        created_at: UTC time in ISO 8601.
        pulled_from: The layout that it was copied from.
        ms_per_image: Milliseconds of an image by row, as ``eval`` and ``profile --latency`` measured them.
        latency: Every part's milliseconds, as ``profile --latency`` measured them.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    created_at: str = ""
    host: str = ""
    system: str = ""
    cpu_count: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    device: str = ""
    world_size: int | None = None
    threads: int | None = None
    pulled_from: str = ""
    ms_per_image: dict[str, float] = Field(default_factory=dict)
    latency: tuple[InputLatency, ...] = ()

    @classmethod
    def known_of(cls, record: Mapping[str, JsonValue]) -> Self:
        """Take what this version understands of a record, which another version may have written."""
        try:
            return cls.model_validate_json(json.dumps(record))
        except ValidationError as error:
            strange = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
            # Without a place it is the record as a whole that makes no sense.
            return cls.known_of({k: v for k, v in record.items() if k not in strange}) if strange else cls()

    def beside(self, other: "Provenance") -> "Provenance":
        """Return both records in one; where both know something, the other's counts."""
        known = [(name, value) for one in (self, other) for name, value in one if name in one.model_fields_set]
        return Provenance.model_validate(dict(known))

    def known(self) -> dict[str, JsonValue]:
        """Return what is known as JSON data."""
        data: dict[str, JsonValue] = self.model_dump(mode="json", exclude_unset=True)
        return data


NOTHING_RECORDED = Provenance()


def local_provenance() -> Provenance:
    """Describe this machine and moment: UTC time, host, operating system, package versions."""
    return Provenance(
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        host=platform.node(),
        system=f"{platform.system()} {platform.machine()}",
        cpu_count=os.cpu_count(),
        versions={"python": platform.python_version(), **dict(_versions())},
    )


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for package in _PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            continue
    return tuple(found)
