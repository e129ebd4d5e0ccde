"""Settings of ``eco export``."""

from typing import Literal

from pydantic import PositiveInt

from ecocli.config.base import Config


class ExportWeightsConfig(Config):
    """What to write of a parent.

    Attributes:
        out: Folder (``hf``) or file (``original``) to write; a file's suffix says its kind.
        format: ``hf`` for a folder that transformers loads, ``original`` for the original Mask2Former's names.
        exit_depth: Encoder layers of the exported model; None for the parent's deepest exit.
        replace: Whether something that is there may be replaced.
    """

    out: str
    format: Literal["hf", "original"]
    exit_depth: PositiveInt | None = None
    replace: bool = False
