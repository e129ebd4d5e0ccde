"""The command line ``eco``: a table of commands, each loaded only when it runs.

Help must be instant although the commands stand on torch, so the table holds the line of help and names module and
function; only the module of the command that was typed is imported.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ecocli.commands._sections import SectionedCommand


@dataclass(frozen=True)
class CommandEntry:
    """One line of the command table.

    Attributes:
        attribute: The command's function, or the Typer application of a group.
    """

    name: str
    module: str
    attribute: str
    help: str

    def load(self) -> Any:
        """Import the module and return the function or the group."""
        return getattr(importlib.import_module(f"ecocli.commands.{self.module}"), self.attribute)


COMMANDS = (
    CommandEntry("train-parent", "train_parent", "train_parent", "Train the parent model with all its exits."),
    CommandEntry("derive", "derive", "derive", "Measure every image at every exit, into a table."),
    CommandEntry("fit-gate", "fit_gate", "fit_gate", "Fit the gate to a trade-off, from the table alone."),
    CommandEntry("eval", "evaluate", "evaluate", "Score the gate beside its controls: PQ, GFLOPs, ms."),
    CommandEntry("profile", "profile_model", "profile_model", "Count GFLOPs and measure ms per exit, by part."),
    CommandEntry("predict", "predict", "predict", "Segment images; write panoptic PNG, JSON and overlays."),
    CommandEntry("sweep", "sweep", "sweep", "Trade quality against compute over beta and exits."),
    CommandEntry("compare", "compare", "compare", "Compare several parents and gates on one split."),
    CommandEntry("report", "report", "report", "Write one HTML page with plots and example images."),
    CommandEntry("import", "import_weights", "import_weights", "Import published weights as a parent."),
    CommandEntry("export", "export_weights", "export_weights", "Write a parent for other programs: weights or graphs."),
    CommandEntry("data", "data", "app", "Draw shapes, convert exports of drawing tools, check data."),
    CommandEntry("store", "store", "app", "List, show, verify, clean and copy artifacts."),
    CommandEntry("env", "env", "env", "Print versions, devices and places, for reports of bugs."),
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from ecocli.runtime.version import version

        typer.echo(f"eco {version()}")
        raise typer.Exit
    return wanted


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Early-exit Mask2Former: train once, re-target to any compute budget in seconds.

    Exit codes: 0 done, 2 wrong usage, 3 bad input data, 4 damaged artifact, 5 interrupted (run again to resume),
    1 a bug, or another process of the run has ended.
    """


def _placeholder(help_text: str) -> Callable[[], None]:
    def command() -> None:
        raise AssertionError("a placeholder was run")

    command.__doc__ = help_text
    return command


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Build the application for one command line.

    Args:
        arguments: The command line without the program's name. Its first word that is no option names the command
            to import; the options before it take no values. All other commands are there by name only.
    """
    app = typer.Typer(
        name="eco",
        pretty_exceptions_enable=False,
        # Plain help loads no rich, can be searched with grep, and fits a log.
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for entry in COMMANDS:
        target = entry.load() if entry.name == wanted else _placeholder(entry.help)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=entry.name, help=entry.help)
        else:
            app.command(entry.name, cls=SectionedCommand)(target)
    return app
