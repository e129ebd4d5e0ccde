"""The version, with the commit where the package runs from a clone."""

import importlib.metadata
import subprocess
from pathlib import Path


def version() -> str:
    """Return the version, followed by ``+`` and the commit in a clone, ``-dirty`` where files of it have changed."""
    number = importlib.metadata.version("ecocli")
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return number
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return number
    return f"{number}+{found.stdout.strip()}"
