"""Provenance: where, when and with which versions an artifact was made. Recorded beside it, outside its digest."""

import datetime
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
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            continue
    return found
