"""Fit foreign weights into a model: full Mask2Formers and DETRs under any naming, and backbones of other tasks.

What fits is loaded; what the file lacks or has in another shape is listed; a tensor that neither the model nor the
table of known extras knows stops everything, because then the file is of another model than it seems.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ecocli.errors import DataError
from ecocli.model.contracts import ExitNetwork
from ecocli.weights.caffe2 import adapt_msra
from ecocli.weights.detr import ORIGINAL_MARK, recognise_detr
from ecocli.weights.files import load_state
from ecocli.weights.mappings import (
    BACKBONE_PREFIXES,
    BACKBONE_SOURCES,
    FULL_IGNORED,
    HF_MASK2FORMER,
    NOT_IN_BACKBONES,
    OLD_NAMES,
)
from ecocli.weights.maskformer import ORIGINAL_MARK as MASKFORMER_MARK
from ecocli.weights.maskformer import recognise_maskformer
from ecocli.weights.renaming import State, matches_any, rename, to_original
from ecocli.weights.rtdetr import recognise_rt_detr

_BACKBONE = "backbone."
_HF_MARK = "model.transformer_module."
_FULL_MARK = "sem_seg_head."
# The gate of the ECO-M2F authors: a linear layer on the mean of the projected tokens with stride 32.
_GATE = "sem_seg_head.pixel_decoder.transformer.encoder.gt.head."
_WRAPPERS = ("module", "_orig_mod")
_ENCODER_LAYER = re.compile(r"(?:sem_seg_head\.pixel_decoder\.)?transformer\.encoder\.layers\.(\d+)\.")
# A published file may count BatchNorm steps where our frozen norm has no counter, and the reverse.
_COUNTERS = ("*.num_batches_tracked",)
# Computed from the sizes alone; a file that has them must agree.
_CONSTANTS = ("*.relative_position_index",)
_SHOWN = 5


@dataclass(frozen=True)
class Mismatch:
    """A tensor that was left alone because its shape differs.

    Attributes:
        name: The original's name.
    """

    name: str
    found: tuple[int, ...]
    expected: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {list(self.found)}, expected {list(self.expected)}"


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a file.

    Attributes:
        source: What the file was recognised as.
        loaded: Names that were loaded, by the original's naming.
        missing: Entries of the model that the file lacks; they keep their values.
        mismatched: Entries of another shape; they keep their values.
        ignored: Names in the file that the model has no use for.
        deeper: Names of encoder layers below the model's deepest, which were left out.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    ignored: tuple[str, ...]
    deeper: tuple[str, ...] = ()

    def summary(self) -> str:
        """One paragraph for a person."""
        text = f"{self.source}: {len(self.loaded)} tensors loaded"
        for label, names in (
            ("kept as they were because the file lacks them", self.missing),
            ("kept as they were because the shapes differ", [str(item) for item in self.mismatched]),
            ("left out because the model has fewer encoder layers", self.deeper),
        ):
            if names:
                text += f"; {len(names)} {label}: {shorten(names)}"
        return text + "."


def shorten(names: Sequence[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


@dataclass(frozen=True)
class RecognisedState:
    """A state dict under the original's names.

    Attributes:
        source: What it was recognised as.
        tensors: By the original's name.
        ignored: Names in the file that carry nothing for a model.
        is_full: Whether it is a whole model, not only a backbone or an encoder.
        caffe2: Whether it is a ResNet of MSRA's kind, see `BackboneSource`.
        gate: ``linear.weight`` [E, C] and ``linear.bias`` [E] of its gate; empty without one.
    """

    source: str
    tensors: State
    ignored: tuple[str, ...]
    is_full: bool
    caffe2: bool = False
    gate: State = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Kind of architecture of a whole model."""
        marks = {"detr": ORIGINAL_MARK, "maskformer": MASKFORMER_MARK}
        return next((kind for kind, mark in marks.items() if mark in self.tensors), "mask2former")


def recognise(state: Mapping[str, Tensor], origin: str) -> RecognisedState:
    """Find out what a state dict is and give it the original's names.

    Args:
        state: Tensors by the names of the file.

    Raises:
        DataError: It is of no known kind, or holds tensors that such a file never has.
    """
    try:
        return _recognise(state, origin)
    except DataError:
        inside = unwrap(state)
        if inside.keys() == state.keys():
            raise
        return _recognise(inside, origin)


def _recognise(state: Mapping[str, Tensor], origin: str) -> RecognisedState:
    rt_detr = recognise_rt_detr(state)
    if rt_detr is not None:
        source, renamed, beside, unknown = rt_detr
        if unknown:
            raise DataError(f"{origin} looks like an {source}, but holds unexpected tensors: {shorten(unknown)}.")
        return RecognisedState(source, renamed, beside, is_full=False)
    other = recognise_detr(state) or recognise_maskformer(state)
    if other is not None:
        source, renamed, unknown = other
    elif any(name.startswith(_HF_MARK) for name in state):
        renamed, unknown = to_original(state, HF_MASK2FORMER)
        source = "Hugging Face Mask2Former"
    elif any(name.startswith(_FULL_MARK) for name in state):
        renamed, unknown = rename(state, OLD_NAMES), ()
        source = "Mask2Former with the original names"
    else:
        return _recognise_backbone(state, origin)
    extras = tuple(name for name in (*renamed, *unknown) if matches_any(name, FULL_IGNORED))
    unexpected = [name for name in unknown if name not in extras]
    if unexpected:
        raise DataError(f"{origin} looks like a {source}, but holds unexpected tensors: {shorten(unexpected)}.")
    gate = {"linear." + n.removeprefix(_GATE): t for n, t in renamed.items() if n.startswith(_GATE)}
    tensors = {n: t for n, t in renamed.items() if n not in extras and not n.startswith(_GATE)}
    if gate:
        source = "ECO-M2F with the original names"
    return RecognisedState(source, tensors, extras, is_full=True, gate=gate)


def unwrap(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Take off the names of wrappers, in any nesting: ``module.``, ``_orig_mod.``, and one common prefix.

    DistributedDataParallel, torch.compile and Lightning put theirs before every name or, where they wrap a part,
    inside.
    A common prefix goes only while what it hides is not known as it stands.
    """
    named = {".".join(part for part in name.split(".") if part not in _WRAPPERS): t for name, t in state.items()}
    if len(named) < len(state):
        named = dict(state)
    known = (_HF_MARK, _FULL_MARK, _HF_MARK.removeprefix("model."))
    while named and not any(name.startswith((_HF_MARK, _FULL_MARK)) for name in named):
        first = {name.partition(".")[0] for name in named}
        inside = {name.partition(".")[2]: tensor for name, tensor in named.items()}
        if len(first) > 1 or not all(inside) or not any(mark in name for name in inside for mark in known):
            break
        named = inside
    return named


def _recognise_backbone(state: Mapping[str, Tensor], origin: str) -> RecognisedState:
    for prefix, beside in BACKBONE_PREFIXES:
        for source in BACKBONE_SOURCES:
            if prefix + source.mark not in state:
                continue
            inside = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            ignored = [n for n in state if not n.startswith(prefix)]
            unexpected = [n for n in ignored if not matches_any(n, beside)]
            extras = [n for n in inside if matches_any(n, source.ignored)]
            wanted = {n: t for n, t in inside.items() if n not in extras}
            renamed, unknown = to_original(wanted, source.rows) if source.rows else (wanted, ())
            unexpected += [prefix + n for n in unknown]
            if unexpected:
                raise DataError(
                    f"{origin} looks like a {source.name} backbone, but holds unexpected tensors: "
                    f"{shorten(unexpected)}."
                )
            return RecognisedState(
                f"{source.name} backbone" + (f" under {prefix}" if prefix else ""),
                {_BACKBONE + n: t for n, t in renamed.items()},
                (*ignored, *(prefix + n for n in extras)),
                is_full=False,
                caffe2=source.caffe2,
            )
    raise DataError(
        f"{origin} is no checkpoint that is known here: its tensors are {shorten(sorted(state))}. Expected a "
        "Mask2Former or DETR (original or Hugging Face names), an RT-DETR, or a ResNet or Swin backbone."
    )


def fit_weights(model: ExitNetwork, recognised: RecognisedState, origin: str) -> LoadReport:
    """Copy what fits into a model.

    Args:
        model: Changed in place, and only if nothing is wrong.

    Raises:
        DataError: The file holds tensors the model lacks, or does not fill the backbone: it is of another model.
    """
    if recognised.caffe2:
        adapted = adapt_msra(recognised.tensors, model.backbone, model.pixel_std, origin)
        recognised = replace(recognised, tensors=adapted)
    own = model.state_dict()
    unexpected = [n for n in recognised.tensors if n not in own and not matches_any(n, _COUNTERS)]
    if unexpected:
        raise DataError(
            f"{origin} ({recognised.source}) is of another model: it holds {shorten(unexpected)}, which this "
            "architecture does not have. Choose the architecture of the file."
        )
    fitting, mismatched = {}, []
    for name, tensor in recognised.tensors.items():
        if name in own:
            found, expected = tuple(tensor.shape), tuple(own[name].shape)
            if found == expected:
                fitting[name] = tensor
            else:
                mismatched.append(Mismatch(name, found, expected))
    for name, tensor in fitting.items():
        if matches_any(name, _CONSTANTS) and not torch.equal(tensor, own[name]):
            raise DataError(f"{origin} is of another model: its {name} is not the one of this window size.")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError(f"{origin} holds values in {name} that are not finite. Expected trained weights.")
    missing = [n for n in own if n not in recognised.tensors]
    optional = [_BACKBONE + pattern for pattern in NOT_IN_BACKBONES]
    lacking = [n for n in missing if n.startswith(_BACKBONE) and not matches_any(n, optional)]
    misfits = [str(item) for item in mismatched if item.name.startswith(_BACKBONE)]
    if (lacking or misfits) and (recognised.is_full or any(n.startswith(_BACKBONE) for n in recognised.tensors)):
        problem = f"lacks {shorten(lacking)}" if lacking else f"has other shapes: {shorten(misfits)}"
        raise DataError(
            f"{origin} ({recognised.source}) is of another model: for this backbone it {problem}. Choose the "
            "architecture of the file."
        )
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    return LoadReport(
        recognised.source,
        tuple(fitting),
        tuple(n for n in missing if not matches_any(n, (*_COUNTERS, *_CONSTANTS))),
        tuple(mismatched),
        recognised.ignored,
    )


def load_initial_weights(model: ExitNetwork, path: Path) -> LoadReport:
    """Start a model from published weights, of a whole model, a backbone alone or RT-DETR's encoder alone.

    An encoder with fewer layers than the file's takes the first ones.

    Args:
        model: Changed in place, and only if nothing is wrong.
        path: ``.pkl``, ``.pth``, ``.safetensors`` or a Hugging Face folder.

    Returns:
        What was loaded and what was not: a class layer for another data set, for example.

    Raises:
        DataError: The file is damaged, unknown, asks to execute something, or is of another model.
    """
    recognised = recognise(load_state(path), str(path))
    deeper = tuple(
        name
        for name in recognised.tensors
        if (match := _ENCODER_LAYER.match(name)) and int(match[1]) >= model.exits.layers
    )
    kept = {name: tensor for name, tensor in recognised.tensors.items() if name not in deeper}
    return replace(fit_weights(model, replace(recognised, tensors=kept), str(path)), deeper=deeper)
