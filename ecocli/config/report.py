"""Settings of ``eco report``: where the page goes and what it shows."""

from pydantic import NonNegativeInt

from ecocli.config.base import Config


class ReportConfig(Config):
    """Settings of a report page.

    Attributes:
        out: Folder for ``index.html`` and the pictures.
        examples: Images shown with their predictions; 0 needs neither data nor network.
        data_root: Folder that holds the data sets; None for the evaluation's default.
    """

    out: str
    examples: NonNegativeInt = 6
    data_root: str | None = None
