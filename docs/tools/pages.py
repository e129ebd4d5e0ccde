"""Writes the pages that a program knows best: docs/commands.md from the help, docs/settings.md from the configurations.

Run by ``make docs``; a test compares what it would write with what is there.
"""

import importlib
import inspect
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types
import typer
from pydantic.fields import FieldInfo

from ecocli.app import COMMANDS, build_app
from ecocli.config.base import Config
from ecocli.config.recipes import DETECTION_PRESETS, TRAIN_PARENT_PRESETS

DOCS = Path(__file__).parents[1]
NOTE = "<!-- Written by docs/tools/pages.py: make docs. -->\n"
CONFIGS = {
    "train-parent": "train_parent.TrainParentConfig",
    "derive": "derive.DeriveConfig",
    "fit-gate": "fit_gate.FitGateConfig",
    "sweep": "sweep.SweepConfig",
    "eval": "evaluate.EvaluateConfig",
    "profile": "profile_model.ProfileModelConfig",
    "predict": "predict.PredictConfig",
    "compare": "compare.CompareConfig",
    "report": "report.ReportConfig",
    "import": "import_weights.ImportWeightsConfig",
    "export --format hf or original": "export_weights.ExportWeightsConfig",
    "export --format onnx or openvino": "export_graphs.ExportGraphsConfig",
}
_BOUNDS = (
    ("gt", annotated_types.Gt, ">"),
    ("ge", annotated_types.Ge, ">="),
    ("lt", annotated_types.Lt, "<"),
    ("le", annotated_types.Le, "<="),
)
_TITLES = {"ResNetConfig": "ResNet section", "DetrConfig": "DETR section"}


def commands_page() -> str:
    """Collect the help of every command."""
    parts = [
        NOTE,
        "# Commands\n",
        "The help of every command, as `eco COMMAND --help` prints it.\n",
        _help_block([]),
    ]
    for entry in COMMANDS:
        parts += [f"## eco {entry.name}\n", _help_block([entry.name])]
        command = typer.main.get_command(build_app([entry.name, "--help"])).commands[entry.name]
        parts += [
            f"### eco {entry.name} {name}\n\n{_help_block([entry.name, name])}"
            for name in getattr(command, "commands", {})
        ]
    return "\n".join(parts)


def _help_block(words: list[str]) -> str:
    command = typer.main.get_command(build_app([*words, "--help"]))
    context = command.make_context("eco", [], resilient_parsing=True)
    for word in words:
        command = command.commands[word]
        context = command.make_context(word, [], parent=context, resilient_parsing=True)
    return f"```text\n{command.get_help(context).rstrip()}\n```\n"


def settings_page() -> str:
    """Collect every setting of every command, and the recipes of the data sets."""
    parts = [
        NOTE,
        "# Settings\n",
        "Every setting by its key, as `--set KEY=VALUE` and `--config FILE.toml` take it. Layers: the preset of data "
        "set and architecture, the TOML file, options, `--set`; later ones win. `eco COMMAND --dry-run` prints all "
        "settings with their values. A dash is a setting without a default: the preset or you give it.\n",
        "Keys with a dot are tables in TOML: `optimizer.lr` is `lr` below `[optimizer]`. `none` unsets a setting.\n",
    ]
    shared: dict[type[Config], str] = {}
    for command, path in CONFIGS.items():
        module, name = path.split(".")
        config = getattr(importlib.import_module(f"ecocli.config.{module}"), name)
        parts.append(f"## eco {command}\n\n" + _table(config, shared))
    while waiting := [config for config, text in shared.items() if not text]:
        for config in waiting:
            shared[config] = _table(config, shared)
    parts += [f"## {_title(config)}\n\n{_summary(config)}\n\n{text}" for config, text in shared.items()]
    parts.append(_recipes())
    return "\n".join(parts)


def _table(config: type[Config], shared: dict[type[Config], str]) -> str:
    rows = [
        f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in _rows(config, "", shared)
    ]
    return "\n".join(["| key | value | default | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def _rows(config: type[Config], prefix: str, shared: dict[type[Config], str]) -> Iterator[tuple[str, str, str, str]]:
    meanings = _attributes(config)
    for name, field in config.model_fields.items():
        meaning = _cell(meanings.get(name, ""))
        if field.exclude:
            meaning += " (no part of the result's identity)"
        inner = _configs(field.annotation)
        if len(inner) == 1 and _is_small(inner[0]):
            yield from _rows(inner[0], f"{prefix}{name}.", shared)
            continue
        for kind in inner:
            shared.setdefault(kind, "")
        links = " or ".join(f"[{_title(kind)}](#{_anchor(_title(kind))})" for kind in inner)
        none = " or `none`" if inner and type(None) in typing.get_args(field.annotation) else ""
        yield f"{prefix}{name}", links + none or _kind(field.annotation, field.metadata), _default(field), meaning


def _is_small(config: type[Config]) -> bool:
    """Tell sections that are part of one command's table from those with a table of their own."""
    return config.__name__ not in {"DatasetConfig"} and len(_configs_of_fields(config)) == 0


def _configs_of_fields(config: type[Config]) -> list[type[Config]]:
    return [inner for field in config.model_fields.values() for inner in _configs(field.annotation)]


def _configs(annotation: Any) -> list[type[Config]]:
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _configs(part)]


def _kind(annotation: Any, metadata: typing.Sequence[Any] = ()) -> str:
    """Write a type in the words of a TOML file."""
    found = {
        sign: f"{getattr(rule, key):g}" for rule in metadata for key, kind, sign in _BOUNDS if isinstance(rule, kind)
    }
    between = f", {found['>=']} to {found['<=']}" if found.keys() == {">=", "<="} else ""
    bounds = between or "".join(f" {sign} {bound}" for sign, bound in found.items())
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        flat = [rule for entry in parts[1:] for rule in getattr(entry, "metadata", [entry])]
        return _kind(parts[0], [*flat, *metadata])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("`none`" if part is type(None) else _kind(part, metadata) for part in parts)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        inner = _kind(parts[0])
        return f"list of {inner}" if parts[-1] is Ellipsis else f"{len(parts)} of {inner}"
    if origin is dict:
        return f"table of {_kind(parts[1])}"
    words = {str: "text", int: "integer", float: "number", bool: "`true` or `false`", type(None): "`none`"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation))) + bounds


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default_factory is not None or isinstance(field.default, Config):
        return "-"
    return f"`{_value(field.default)}`"


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        texts = [_value(entry) for entry in value]
        return f"[{', '.join(texts if len(texts) < 8 else [*texts[:2], '...', texts[-1]])}]"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def _attributes(config: type[Config]) -> dict[str, str]:
    """Read what a class says of its fields, its bases' included."""
    found = _attributes(config.__base__) if config.__base__ and config.__base__ is not Config else {}
    text = inspect.cleandoc(config.__doc__ or "").partition("Attributes:\n")[2]
    for entry in re.split(r"\n(?= {4}\w)", "\n" + text):
        name, _, meaning = entry.strip().partition(": ")
        found[name] = " ".join(meaning.split())
    return found


def _summary(config: type[Config]) -> str:
    return _cell(" ".join(inspect.cleandoc(config.__doc__ or "").partition("\n\n")[0].split()))


def _title(config: type[Config]) -> str:
    if config.__name__ in _TITLES:
        return _TITLES[config.__name__]
    words = re.findall(r"[A-Z][a-z]*", config.__name__.removesuffix("Config"))
    return " ".join([words[0], *(word.lower() for word in words[1:])]) + " section"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _cell(text: str) -> str:
    text = re.sub(r"\bNone\b", "`none`", text.replace("``", "`"))
    return text.replace("|", "\\|").rstrip(".")


def _recipes() -> str:
    named = {"shapes": TRAIN_PARENT_PRESETS["shapes"], "coco": TRAIN_PARENT_PRESETS["coco"]}
    named["cityscapes"] = TRAIN_PARENT_PRESETS["cityscapes"]
    named |= {f"{name}, detection": preset for name, preset in DETECTION_PRESETS.items()}
    flat = {name: dict(_flat(preset)) for name, preset in named.items()}
    keys = sorted({key for preset in flat.values() for key in preset})
    lines = [f"| key | {' | '.join(flat)} |", "| --- " * (len(flat) + 1) + "|"]
    for key in keys:
        values = (f"`{_value(preset[key])}`" if key in preset else "" for preset in flat.values())
        lines.append(f"| `{key}` | {' | '.join(values)} |")
    return (
        "## Recipes\n\nWhat `eco train-parent` takes below everything that you say, by data set. An empty cell is the "
        "default above.\n\n" + "\n".join(lines) + "\n"
    )


def _flat(preset: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in preset.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


PAGES = {"commands.md": commands_page, "settings.md": settings_page}
"""Files of docs/ to what writes them."""


def main() -> None:
    """Write every page."""
    for name, write in PAGES.items():
        (DOCS / name).write_text(write())


if __name__ == "__main__":
    os.environ["COLUMNS"] = "80"
    main()
