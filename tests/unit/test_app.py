"""The command table: every line names a module that loads and a command whose help can be shown."""

import re
import subprocess
from pathlib import Path

import pytest

import ecocli.commands
from ecocli.__main__ import main
from ecocli.app import COMMANDS, CommandEntry

_NOT_COMMANDS = {"__init__", "common", "options", "tables"}


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


def test_help__sections__what_is_asked_first_and_execution_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-parent", "--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE) == [
        "Options",
        "Exits",
        "Training",
        "Settings and result",
        "Execution",
    ]
    assert text.index("--dataset") < text.index("--exits ") < text.index("--json") < text.index("--threads")
    assert main(["store", "gc", "--help"]) == 0
    assert "Gate:" not in capsys.readouterr().out


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_help__every_option__has_a_metavar_of_its_own(entry: CommandEntry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([entry.name, "--help"]) == 0
    assert re.findall(r"^  --.*<(?:int|float|str).*", capsys.readouterr().out, re.MULTILINE) == []


def test_completion__words_so_far__commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for words, count, expected in (("eco fit", 1, "fit-gate"), ("eco train-parent --ep", 2, "--epochs")):
        monkeypatch.setenv("_ECO_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(count))
        with pytest.raises(SystemExit) as left:
            main([])
        assert (left.value.code, capfd.readouterr().out.split()) == (0, [expected])


def test_version__clone_and_installation__commit_in_the_clone_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ecocli.runtime import version as module

    monkeypatch.setattr(module, "__file__", str(tmp_path / "ecocli" / "runtime" / "version.py"))
    assert "+" not in module.version()
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\+[0-9a-f]{7,}", module.version())
