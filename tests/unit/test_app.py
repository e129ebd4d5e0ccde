"""The command table: every line names a module that loads and a command whose help can be shown."""

import re
from pathlib import Path

import pytest

import ecocli.commands
from ecocli.__main__ import main
from ecocli.app import COMMANDS, CommandEntry

_NOT_COMMANDS = {"__init__", "common", "tables"}


def _in_table() -> set[str]:
    return {entry.module for entry in COMMANDS}


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_commands__each_entry__shows_its_help(entry: CommandEntry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([entry.name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: eco {entry.name} ")
    assert err == ""


def test_commands__modules_of_the_folder__are_all_in_the_table() -> None:
    # A module that helps a command is private by its leading underscore.
    folder = Path(ecocli.commands.__file__).parent
    public = {path.stem for path in folder.glob("[!_]*.py")} - _NOT_COMMANDS
    assert public == _in_table()


def test_commands__names__are_the_documented_ones() -> None:
    # The table of the design, in its order.
    names = (
        "train-parent, derive, fit-gate, eval, profile, predict, sweep, compare, report, import, export, data, store"
    )
    names += ", env"
    assert ", ".join(entry.name for entry in COMMANDS) == names


def test_commands__help_lines__are_one_short_sentence() -> None:
    for entry in COMMANDS:
        assert re.fullmatch(r"[A-Z].{10,58}\.", entry.help), entry
