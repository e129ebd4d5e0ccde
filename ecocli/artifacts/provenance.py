"""Provenance: where, when and with which versions an artifact was made. Recorded beside it, outside its digest."""

import datetime
import functools
import os
import platform
from collections.abc import Mapping
from importlib import metadata

from pydantic import JsonValue

_PACKAGES = ("ecocli", "torch", "numpy", "scipy", "pillow", "pyarrow", "safetensors", "pydantic")


def local_provenance() -> dict[str, JsonValue]:
    """Describe this machine and moment: UTC time, host, operating system, package versions."""
    return {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "versions": {"python": platform.python_version(), **dict(_versions())},
    }


def measured_ms(provenance: Mapping[str, JsonValue]) -> dict[str, float]:
    """Milliseconds of an image by row, as ``eval`` and ``profile --latency`` measured them; empty if they did not."""
    found = provenance.get("ms_per_image")
    rows = found if isinstance(found, Mapping) else {}
    return {name: float(time) for name, time in rows.items() if isinstance(time, int | float)}


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for package in _PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            continue
    return tuple(found)
