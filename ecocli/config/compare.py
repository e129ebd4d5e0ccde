"""Settings of a comparison of parents."""

from ecocli.config.base import Config
from ecocli.config.rules import RulesName


class CompareConfig(Config):
    """Everything ``compare`` needs beside the parents and gates.

    Attributes:
        split: The split of the derived tables that all are compared on.
        rules: Evaluations by whose rules mIoU and the AP of masks are taken from; None for the rules of the data set.
        out: Folder for the plot and the table; none are written without one.
    """

    split: str = "val"
    rules: RulesName | None = None
    out: str | None = None
