"""The entry point: exit codes through ``main``, what is printed where, and what help must not load."""

import io
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import ecocli.app
from ecocli import __main__ as entry_point
from ecocli.__main__ import main
from ecocli.app import COMMANDS, CommandEntry, build_app
from ecocli.errors import ArtifactError, DataError, InterruptedRunError, UsageError

Register = Callable[[object], None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Make the given function or group the command ``fake``."""

    def put(target: object) -> None:
        module = types.ModuleType("ecocli.commands.fake")
        module.target = target  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ecocli.commands.fake", module)
        monkeypatch.setattr(ecocli.app, "COMMANDS", (*COMMANDS, CommandEntry("fake", "fake", "target", "Fake.")))

    return put


def _raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    "error, code",
    [(UsageError("x"), 2), (DataError("x"), 3), (ArtifactError("x"), 4), (InterruptedRunError("x"), 5)],
)
def test_main__expected_error__gives_its_code_and_one_line(
    error: Exception, code: int, register: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    register(_raising(error))
    assert main(["fake"]) == code
    assert capsys.readouterr() == ("", "error: x\n")


def test_main__bug__gives_1_and_a_traceback(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    register(_raising(ZeroDivisionError("oh")))
    assert main(["fake"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" in err
    assert "ZeroDivisionError: oh" in err


def test_main__keyboard_interrupt__gives_130_without_traceback(
    register: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    register(_raising(KeyboardInterrupt()))
    assert main(["fake"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted at once")


def test_main__command_leaves_with_a_code__gives_that_code(register: Register) -> None:
    register(_raising(typer.Exit(7)))
    assert main(["fake"]) == 7


def test_main__success__gives_0_and_passes_arguments(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    def command(count: int = 1) -> None:
        """Print a number."""
        sys.stdout.write(f"{count + 1}\n")

    register(command)
    assert main(["fake", "--count", "4"]) == 0
    assert capsys.readouterr() == ("5\n", "")


def test_main__group__runs_its_subcommand(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    group = typer.Typer()

    @group.command("ls")
    def ls() -> None:
        sys.stdout.write("listed\n")

    @group.command("gc")
    def gc() -> None:
        sys.stdout.write("cleaned\n")

    register(group)
    assert main(["fake", "ls"]) == 0
    assert capsys.readouterr().out == "listed\n"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["fake", "--nope"], "No such option: --nope"),
        (["fake", "--count", "many"], "Invalid value for '--count': Input should be a valid integer"),
        (["fake", "more"], "unexpected extra argument"),
        (["fit-gat"], "No such command 'fit-gat'. Did you mean 'fit-gate'?"),
        (["--nope"], "No such option: --nope"),
    ],
)
def test_main__wrong_usage__gives_2_and_names_the_help(
    arguments: list[str], words: str, register: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(count: int = 1) -> None:
        raise AssertionError(count)

    register(command)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert err.rstrip().endswith("Try 'eco fake --help'." if arguments[0] == "fake" else "Try 'eco --help'.")


def test_main__no_arguments__prints_help_on_stderr_and_gives_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "fit-gate" in err


def test_main__group_without_command__prints_its_help_on_stderr_and_gives_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["store"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: eco store ")
    assert "verify" in err


def test_main__help__lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for entry in COMMANDS:
        assert f"  {entry.name} " in out
        # Click cuts long help lines with dots; a cut line is a line to shorten.
        assert entry.help in out


def test_main__error_on_a_terminal__is_wrapped_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "30")
    digest = "sha256:" + "ab" * 32
    entry_point._print_error(f"found {digest} where another digest was expected\n  - one long fault of this list")
    assert terminal.getvalue().splitlines() == [
        "error: found",
        digest,
        "where another digest was",
        "expected",
        "  - one long fault of this",
        "    list",
    ]


def test_main__reader_of_stdout_gone__leaves_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _CHATTY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=30), err) == (128 + signal.SIGPIPE, "")


_CHATTY = """
import sys, time, types
import ecocli.app
from ecocli.__main__ import main

def command():
    time.sleep(0.2)
    for _ in range(100000):
        print("a line")

module = types.ModuleType("ecocli.commands.fake")
module.target = command
sys.modules["ecocli.commands.fake"] = module
ecocli.app.COMMANDS = (ecocli.app.CommandEntry("fake", "fake", "target", "Fake."),
                       ecocli.app.CommandEntry("other", "fake", "target", "Fake."))
sys.exit(main(["fake"]))
"""

_WHAT_HELP_LOADS = """
import sys
from ecocli.__main__ import main
main(sys.argv[1:])
heavy = {"torch", "numpy", "rich", "pyarrow", "scipy", "PIL", "matplotlib", "transformers"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["fit-gat"], []])
def test_main__help_or_typing_mistake__loads_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WHAT_HELP_LOADS, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_main__help__is_instant() -> None:
    # User and system time of the child, so that a busy machine does not decide; typer alone needs 0.07 s.
    before = os.times()
    subprocess.run([sys.executable, "-m", "ecocli", "--help"], check=True, capture_output=True, timeout=60)
    after = os.times()
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    assert used_s < 0.4


def test_main__working_directory_removed__one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["store", "ls"]) == 2
    assert capsys.readouterr().err.startswith("error: The working directory is gone")


def test_main__world_of_which_nobody_says_where__one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main(["predict", "a.png", "--store", str(tmp_path)]) == 2
    assert "Start them with torchrun, or unset RANK, WORLD_SIZE" in capsys.readouterr().err


def test_build_app__placeholder_of_another_command__is_never_the_real_one() -> None:
    app = build_app(["--help"])
    callbacks = [info.callback for info in app.registered_commands]
    assert len(callbacks) == len(COMMANDS)
    assert callbacks[0] is not None
    with pytest.raises(AssertionError, match="a placeholder was run"):
        callbacks[0]()


_INTERRUPTED_AT_WORK = """
import threading, time
from ecocli import __main__ as entry_point

def work(arguments):
    threading.Thread(target=time.sleep, args=(1000.0,)).start()
    raise KeyboardInterrupt

entry_point._run, entry_point._PATIENCE_S = work, 0.2
entry_point.run()
"""


def test_run__interrupted_beside_a_thread_that_never_ends__leaves_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", _INTERRUPTED_AT_WORK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr.startswith("error: interrupted at once, without saving.")
