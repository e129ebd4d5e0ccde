"""Apply the name tables of ``mappings.py`` to state dicts, in either direction."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache

import torch
from torch import Tensor

from ecocli.weights.mappings import Rows

State = dict[str, Tensor]

_PLACEHOLDER = re.compile(r"\{(\w)\}")
_GROUPS = {"p": "weight|bias|running_mean|running_var|num_batches_tracked", "m": "[a-z_]+"}


@cache
def _matcher(template: str) -> re.Pattern[str]:
    """Regular expression that a whole name must match, with one named group per placeholder."""
    parts = _PLACEHOLDER.split(template)
    # split alternates literal text and placeholder letters.
    pieces = [
        f"(?P<{part}>{_GROUPS.get(part, '[0-9]+')})" if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    ]
    return re.compile("".join(pieces))


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template)


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the shell-style patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def rename(state: Mapping[str, Tensor], patterns: Iterable[tuple[str, str]]) -> State:
    """Bring names up to date by regular expressions and their replacements, one after the other."""
    renamed = dict(state)
    for pattern, replacement in patterns:
        renamed = {re.sub(pattern, replacement, name): tensor for name, tensor in renamed.items()}
    return renamed


def to_original(state: Mapping[str, Tensor], rows: Rows) -> tuple[State, tuple[str, ...]]:
    """Rename a foreign state dict to the original's names.

    Args:
        state: Tensors by foreign name.

    Returns:
        The tensors that the table knows, by original name, and the foreign names it does not know. The parts of a
        fused tensor that lacks another part count as unknown.
    """
    renamed: State = {}
    left = dict.fromkeys(state)
    for ours, theirs in rows:
        parts = (theirs,) if isinstance(theirs, str) else theirs
        for name in list(left):
            found = _matcher(parts[0]).fullmatch(name)
            if found is None:
                continue
            names = [_fill(part, found.groupdict()) for part in parts]
            if all(part in left for part in names):
                renamed[_fill(ours, found.groupdict())] = _join([state[part] for part in names])
                for part in names:
                    del left[part]
    return renamed, tuple(left)


def from_original(state: Mapping[str, Tensor], rows: Rows) -> tuple[State, tuple[str, ...]]:
    """Rename a state dict with the original's names to foreign ones.

    Args:
        state: Tensors by original name.

    Returns:
        The tensors by foreign name, fused ones cut into equal parts, and the names that the table does not know.
    """
    renamed: State = {}
    left = dict.fromkeys(state)
    for ours, theirs in rows:
        parts = (theirs,) if isinstance(theirs, str) else theirs
        for name in list(left):
            found = _matcher(ours).fullmatch(name)
            if found is None:
                continue
            values = found.groupdict()
            # A counter has no axis to cut along.
            whole = state[name]
            pieces = (whole,) if len(parts) == 1 else [piece.clone() for piece in whole.chunk(len(parts))]
            for part, tensor in zip(parts, pieces, strict=True):
                renamed[_fill(part, values)] = tensor
            del left[name]
    return renamed, tuple(left)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
