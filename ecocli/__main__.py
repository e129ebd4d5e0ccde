"""The entry point ``eco``: runs one command and turns its outcome into an exit code.

Only here does the program decide to leave. An expected error is one paragraph on stderr, and so is the loss of another
process; anything else is a bug and shows its traceback.
"""

import errno
import os
import re
import shutil
import sys
import textwrap
import threading
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

import typer

from ecocli.app import build_app
from ecocli.errors import EcoError, UsageError
from ecocli.runtime.distributed import exit_process, has_lost_another
from ecocli.runtime.files import user_path
from ecocli.runtime.formats import plain_text
from ecocli.runtime.streams import flush_streams, prepare_streams, silence, stderr_file, write_stderr

# What a shell reports for a process that SIGINT or SIGPIPE ended.
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_PATIENCE_S = 2.0
_COMPLETE = "_ECO_COMPLETE"
# What a machine may answer anywhere; any other error of a file that nobody foresaw is a bug.
_SURROUNDINGS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


def _print_error(message: str) -> None:
    """Write a message to stderr, wrapped where a person reads it and unbroken where a log is searched."""
    lines = plain_text(f"error: {message}").splitlines()
    if sys.stderr.isatty():
        width = min(shutil.get_terminal_size().columns, 100)
        lines = [
            wrapped
            for line in lines
            for wrapped in textwrap.wrap(
                line,
                width,
                subsequent_indent="    " if line.startswith("  ") else "",
                # Paths and digests are copied from the screen: never cut them.
                break_long_words=False,
                break_on_hyphens=False,
            )
            or [""]
        ]
    write_stderr("\n".join(lines) + "\n")


def _print_usage_error(error: typer.TyperException) -> None:
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip()
    if message.startswith("Usage: "):
        # A group without a command: the error's message is the whole help.
        write_stderr(message + "\n")
        return
    if not message.endswith((".", "?", ")")):
        message += "."
    if context is not None:
        message += f" Try '{context.command_path} --help'."
    _print_error(message)


def _expanded(argument: str) -> str:
    """Expand ``~`` where a shell does not, after ``=``, and refuse what an unset variable leaves."""
    option, equals, value = argument.rpartition("=")
    if not argument or (not value and re.fullmatch(r"--[a-z-]+", option)):
        raise UsageError(
            f"An argument is empty{f' ({option})' if option else ''}, as when a shell variable is not set. Leave it "
            "out or give it a value."
        )
    if re.match(r"~[\w.-]*(/|$)", value) and re.fullmatch(r"(--[a-z-]+=)?[\w.-]*=?|-+[\w.-]+=?", option + equals):
        return option + equals + str(user_path(value))
    return argument


def _run(arguments: Sequence[str]) -> int:
    if _COMPLETE in os.environ:
        # The shell asks for completions; the line so far is in its variables.
        words = os.environ.get("_TYPER_COMPLETE_ARGS", os.environ.get("COMP_WORDS", "")).split()[1:]
        typer.main.get_command(build_app(words)).main([], prog_name="eco")
    if not arguments:
        with redirect_stdout(stderr_file()):
            _run(["--help"])
        return 2
    arguments = [_expanded(argument) for argument in arguments]
    command = typer.main.get_command(build_app(arguments))
    try:
        with command.make_context("eco", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except typer.TyperException as error:
        _print_usage_error(error)
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; None for that of the process.

    Returns:
        0 done, 2 wrong usage, 3 bad or missing input data, 4 damaged or mismatched artifact, 5 interrupted with
        its state saved, 1 a bug, or another process of the run has ended. Beside these, 130 after an interrupt that
        saved nothing and 141 when the reader of stdout has gone, as shells have it.
    """
    prepare_streams()
    try:
        return _outcome(arguments)
    finally:
        # The interpreter flushes too, and ends with a code of its own where it cannot.
        flush_streams()


def _check_working_directory() -> None:
    """Refuse to work in a folder that is gone: libraries below torch end the process there."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("The working directory is gone: change to a folder that is there.") from error


def _outcome(arguments: Sequence[str] | None) -> int:
    try:
        _check_working_directory()
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except EcoError as error:
        _print_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        # Ctrl-C before a stage can save, or the second one: nobody promised that a run can go on from here.
        _print_error("interrupted at once, without saving. Earlier saved state, if any, is still used by a new run.")
        return _INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return _BROKEN_PIPE
    except MemoryError as error:
        _print_error(
            f"memory is short{f' ({error})' if str(error) else ''}. Ask for less at once, or use a larger machine."
        )
        return UsageError.exit_code
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            write_stderr(traceback.format_exc())
            return 1
        place = f" {error.filename}" if error.filename is not None else ""
        _print_error(f"the file system refuses{place}: {error.strerror}. Make it usable, or choose another place.")
        return UsageError.exit_code
    except Exception as error:
        if "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
            _print_error("memory is short: ask for less at once (a smaller batch or image), or use a larger machine.")
            return UsageError.exit_code
        if has_lost_another(error):
            _print_error("another process of this run has ended; its own message says why. What was saved is kept.")
            return 1
        write_stderr(traceback.format_exc())
        return 1


def run() -> NoReturn:
    """Run the command line of this process, and end it."""
    code = main()
    if code == _INTERRUPTED:
        # "At once" was promised: threads and helper processes that Python waits for at its end are left behind then.
        leave = threading.Timer(_PATIENCE_S, os._exit, (code,))
        leave.daemon = True
        leave.start()
    exit_process(code)


if __name__ == "__main__":
    run()
