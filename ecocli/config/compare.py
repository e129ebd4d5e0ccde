"""Settings of a comparison of parents."""

from ecocli.config.base import Config


class CompareConfig(Config):
    """Everything ``compare`` needs beside the parents and gates.

    Attributes:
        split: The split of the derived tables that all are compared on.
        out: Folder for the plot and the table; none are written without one.
    """

    split: str = "val"
    out: str | None = None
