"""Provenance: where, when and with which versions an artifact was made. Recorded beside it, outside its digest."""

import datetime
import functools
import os
import platform
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


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for package in _PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            continue
    return tuple(found)
