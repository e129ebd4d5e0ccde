"""Command lines and other code of Markdown documents, as a reader would copy them."""

import re
import shlex
from pathlib import Path

import typer

from ecocli.app import build_app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "SECURITY")),
    *sorted(ROOT.glob("docs/*.md")),
]
_SEPARATORS = {"&&", "||", ";", "|", "&", "(", ")", ">", "$"}


def blocks(document: Path, *languages: str) -> list[str]:
    """Code blocks of one of some languages."""
    found = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def shell_commands(block: str) -> list[list[str]]:
    """Words of every simple command of a shell block, in order; assignments before a command are left out."""
    text = re.sub(r"\\\n", " ", block).replace("$(", " ( ")
    commands: list[list[str]] = []
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        commands.append([])
        for word in lexer:
            if word in _SEPARATORS or set(word) <= set(";&|()<>"):
                commands.append([])
            elif commands[-1] or not re.fullmatch(r"\w+=.*|\w+=", word):
                commands[-1].append(word)
    return [command for command in commands if command]


def eco_arguments(command: list[str]) -> list[str] | None:
    """Arguments of a command that runs ``eco``, with torchrun or without; None for any other."""
    if command[0] == "eco":
        return command[1:]
    return command[command.index("ecocli") + 1 :] if command[0] == "torchrun" else None


def parse(arguments: list[str]) -> None:
    """Parse a command line as ``eco`` does, and run nothing.

    Raises:
        typer.TyperException: The command, an option or an argument is unknown, missing or wrong.
    """
    command = typer.main.get_command(build_app(arguments))
    if arguments and arguments[0].endswith("-completion"):  # would be carried out while it is parsed
        assert any(arguments[0] in param.opts for param in command.params)
        return
    context = command.make_context("eco", list(arguments))
    while isinstance(command, typer.core.TyperGroup):
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
