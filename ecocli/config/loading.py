"""From presets, TOML files, flags and assignments to one validated configuration.

Layers are merged key by key, later ones win, and the result is validated once. All faults are reported together,
each with the valid key nearest to what was typed, because a user who corrects one key at a time starts a program
many times.
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ecocli.config.base import Config
from ecocli.errors import UsageError
from ecocli.runtime.files import read_regular
from ecocli.runtime.formats import RECORD_LIMIT_BYTES, parse_toml

ConfigT = TypeVar("ConfigT", bound=Config)

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# Shells eat quotes, so a word that cannot be mistaken for another TOML value needs none.
_BARE_WORD = re.compile(r"[A-Za-z_/~.][\w/~.:@+-]*")


def deep_merge(*layers: Mapping[str, object]) -> dict[str, object]:
    """Merge nested mappings into a new one; later layers win, key by key.

    A mapping merges only with a mapping; any other pair of values is replaced as a whole, lists included.
    """
    merged: dict[str, object] = {}
    for layer in layers:
        for key, value in layer.items():
            former = merged.get(key)
            if isinstance(value, Mapping):
                merged[key] = deep_merge(former, value) if isinstance(former, Mapping) else deep_merge(value)
            else:
                merged[key] = value
    return merged


def merge_alternatives(*layers: Mapping[str, object], alternatives: Sequence[str]) -> dict[str, object]:
    """Merge layers of settings, some keys of which are different ways to say one thing.

    Args:
        layers: Nested mappings, later ones winning as in ``deep_merge``.
        alternatives: Top-level keys. The last layer that has one of them decides which it is; the others go.

    Raises:
        UsageError: One layer has two of them.
    """
    merged: dict[str, object] = {}
    for layer in layers:
        chosen = [key for key in alternatives if key in layer]
        if len(chosen) > 1:
            raise UsageError(f"Both {' and '.join(chosen)} are given, and each determines the other: leave one out.")
        kept = {key: value for key, value in merged.items() if not chosen or key not in alternatives}
        merged = deep_merge(kept, layer)
    return merged


def nest(dotted: Mapping[str, object]) -> dict[str, object]:
    """Turn ``{"gate.beta": 1}`` into ``{"gate": {"beta": 1}}``; of two values for one key the later wins."""
    result: dict[str, object] = {}
    for key, value in dotted.items():
        layer: object = value
        for part in reversed(key.split(".")):
            layer = {part: layer}
        result = deep_merge(result, typing.cast("dict[str, object]", layer))
    return result


def load_toml(path: Path) -> dict[str, object]:
    """Read a TOML file.

    Raises:
        UsageError: The file cannot be read or is not TOML.
    """
    try:
        return parse_toml(read_regular(path, RECORD_LIMIT_BYTES).decode())
    except OSError as error:
        raise UsageError(
            f"The configuration file {path} cannot be read ({error.strerror}). Expected the path of a TOML file."
        ) from error
    except ValueError as error:
        raise UsageError(f"The configuration file {path} is not valid TOML: {error}.") from error


def _parse_value(text: str, assignment: str) -> object:
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError as error:
        if _BARE_WORD.fullmatch(text):
            return text
        raise UsageError(
            f"The assignment {assignment!r} has the value {text!r}, expected a TOML value such as 3, 0.5, true, "
            '[1, 2] or "text". Text with special characters needs quotes: --set \'key="some text"\'.'
        ) from error
    if set(parsed) != {"value"}:
        raise UsageError(f"The assignment {assignment!r} spans several lines, expected one KEY=VALUE.")
    return parsed["value"]


def parse_assignments(assignments: Sequence[str]) -> dict[str, object]:
    """Read ``key=value`` texts into nested mappings.

    Keys are dotted paths. Values have TOML syntax; a plain word such as ``coco`` is text without quotes. Later
    assignments win.

    Raises:
        UsageError: An assignment has no key, no value, or a value that is not TOML.
    """
    result: dict[str, object] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key):
            raise UsageError(
                f"The assignment {assignment!r} was found, expected KEY=VALUE with a dotted key, such as "
                "--set optimizer.steps=100."
            )
        result = deep_merge(result, nest({key: _parse_value(text.strip(), assignment)}))
    return result


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the model classes an annotation may hold, through Optional, unions, Annotated and containers."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _keys(models: Sequence[type[BaseModel]]) -> list[str]:
    return sorted({name for model in models for name in model.model_fields})


def _all_keys(model: type[BaseModel], prefix: str = "", parents: tuple[type[BaseModel], ...] = ()) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in _models_in(field.annotation):
            if inner not in parents:
                yield from _all_keys(inner, f"{prefix}{name}.", (*parents, model))


def _tag(model: type[BaseModel]) -> object:
    """What a discriminated union calls a member."""
    field = model.model_fields.get("kind")
    return field.default if field is not None else None


def _locate(root: type[BaseModel], location: Sequence[int | str], is_unknown: bool) -> tuple[str, list[str]]:
    """Write a Pydantic location as a dotted key, and list the keys that are valid beside its last part.

    In a union Pydantic inserts what it calls the member that it tried; the user never wrote it.

    Args:
        root: The configuration.
        location: Of a fault.
        is_unknown: Whether its last part is a key that no model has.
    """
    models: list[type[BaseModel]] = [root]
    siblings = models
    dotted = ""
    for place, part in enumerate(location):
        if isinstance(part, int):
            dotted += f"[{part}]"
            continue
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if not fields and not (is_unknown and place == len(location) - 1):
            models = [model for model in models if part in (model.__name__, _tag(model))] or models
            continue
        dotted += f".{part}" if dotted else part
        siblings = models
        models = [inner for field in fields for inner in _models_in(field.annotation)]
    return dotted, _keys(siblings)


def _suggest(root: type[BaseModel], dotted: str, siblings: Sequence[str]) -> str:
    last = dotted.rpartition(".")[2]
    prefix = dotted[: len(dotted) - len(last)]
    near = [prefix + name for name in difflib.get_close_matches(last, siblings, n=1)]
    # The right key at the wrong level is as common as a misspelt one; in another member of a union it is no help.
    near += [key for key in _all_keys(root) if key.rpartition(".")[2] == last and key not in (*near, dotted)]
    if near:
        return f"did you mean {' or '.join(repr(name) for name in near[:3])}?"
    return f"valid keys here: {', '.join(siblings)}"


def _describe(root: type[BaseModel], error: Mapping[str, Any]) -> tuple[str, str, object]:
    """Say what is wrong: where, what, and the value; the last two are empty where the key itself is at fault."""
    is_unknown = error["type"] == "extra_forbidden"
    dotted, siblings = _locate(root, error["loc"], is_unknown)
    if is_unknown:
        return f"unknown key {dotted!r}; {_suggest(root, dotted, siblings)}", "", None
    if error["type"] == "missing":
        return f"missing key {dotted!r}", "", None
    if error["type"] == "union_tag_invalid":
        return (
            f"{dotted}.kind",
            f"input should be {error['ctx']['expected_tags'].replace(', ', ' or ')}",
            error["ctx"]["tag"],
        )
    message = str(error["msg"]).removeprefix("Value error, ")
    return (dotted, f"{message[:1].lower()}{message[1:]}", error["input"]) if dotted else (message, "", None)


def _faults(root: type[BaseModel], errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe faults, each once; what a value's kinds want is one fault, and that of the kind that got furthest."""
    told = [_describe(root, error) for error in errors]
    described = dict.fromkeys(where for where, _, _ in told)
    lines = []
    for where in described:
        wanted = list(dict.fromkeys(what for place, what, _ in told if place == where and what))
        if not wanted:
            lines.append(where)
            continue
        if any(other.startswith((f"{where}.", f"{where}[")) for other in described):
            continue
        same = "input should be "
        text = " or ".join([wanted[0], *(what.removeprefix(same) for what in wanted[1:])])
        value = next(value for place, _, value in told if place == where)
        found = json.dumps(value, default=str)
        lines.append(f"{where}: {text}, found {found if len(found) <= 80 else found[:77] + '...'}")
    return lines


def _to_json(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Enum):
        return value.value
    return str(value)


def _unset(given: Mapping[str, object], models: Sequence[type[BaseModel]]) -> dict[str, object]:
    """Put None for the word ``none`` wherever a setting may be None and ``none`` is no choice of its own."""
    result: dict[str, object] = {}
    for key, value in given.items():
        annotations = [model.model_fields[key].annotation for model in models if key in model.model_fields]
        if isinstance(value, Mapping):
            value = _unset(value, [inner for annotation in annotations for inner in _models_in(annotation)])
        elif value == "none" and any(_may_be_none(annotation) for annotation in annotations):
            value = None
        result[key] = value
    return result


def _may_be_none(annotation: object) -> bool:
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return False
    is_choice = any("none" in typing.get_args(argument) for argument in inner)
    return annotation is type(None) or (any(map(_may_be_none, inner)) and not is_choice)


def resolve_config(config_class: type[ConfigT], *layers: Mapping[str, object]) -> ConfigT:
    """Merge the layers, later ones winning, and validate the result.

    Args:
        layers: Nested mappings, such as a preset, a TOML file, flags and assignments. Lists become tuples, paths
            become text.

    Raises:
        UsageError: Keys are unknown or missing, or values are wrong; all faults are named.
    """
    try:
        text = json.dumps(_unset(deep_merge(*layers), [config_class]), default=_to_json)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The configuration ({config_class.__name__}) holds what no file can: {error}.") from error
    try:
        return config_class.model_validate_json(text)
    except ValidationError as error:
        faults = _faults(config_class, error.errors())
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    listing = "\n".join(f"  - {fault}" for fault in faults)
    raise UsageError(f"The configuration ({config_class.__name__}) has {count}:\n{listing}")
