"""Write a model for other programs: a folder that transformers loads, or a file with the original's names.

Both carry the weights of one exit depth: the encoder may be cut, which makes a fixed-depth model of it.
"""

import json
import pickle
import re
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.dataset import KEEP_SIZE, ResizeConfig
from ecocli.errors import UsageError
from ecocli.exits import ExitPlan
from ecocli.weights.huggingface import check_expressible, folder_configs
from ecocli.weights.mappings import HF_MASK2FORMER
from ecocli.weights.renaming import State, from_original

_NO_OBJECT_WEIGHT = 0.1
_ENCODER_LAYER = re.compile(r"(?:sem_seg_head\.pixel_decoder\.)?transformer\.encoder\.layers\.(\d+)\.")
_EMPTY_WEIGHT = "criterion.empty_weight"


def cut_encoder(state: Mapping[str, Tensor], exits: ExitPlan, exit_depth: int) -> State:
    """The state dict with the encoder layers of one exit alone, numbered anew.

    Args:
        state: Tensors by the original's names.

    Raises:
        UsageError: The model has no such exit.
    """
    try:
        numbers = exits.renumber(exit_depth)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    cut = {}
    for name, tensor in state.items():
        found = _ENCODER_LAYER.match(name)
        if found is None:
            cut[name] = tensor
        elif (old := int(found.group(1))) in numbers:
            cut[f"{name[: found.start(1)]}{numbers[old]}{name[found.end(1) :]}"] = tensor
    return cut


def with_empty_weight(state: State, num_classes: int) -> State:
    """Add the criterion's constant, which both programs keep in their state dicts."""
    weight = torch.ones(num_classes + 1)
    weight[-1] = _NO_OBJECT_WEIGHT
    return state | {_EMPTY_WEIGHT: weight}


def write_original(
    architecture: ArchitectureConfig, state: Mapping[str, Tensor], exit_depth: int | None = None
) -> State:
    """State dict with exactly the original's entries.

    Args:
        exit_depth: Cut the encoder at this exit; None keeps all layers.

    Raises:
        UsageError: The model has no such exit.
    """
    exits = architecture.exits
    kept = cut_encoder(state, exits, exits.deepest if exit_depth is None else exit_depth)
    return with_empty_weight(kept, architecture.num_classes)


def to_pickle(state: Mapping[str, Tensor]) -> bytes:
    """Serialise a state dict as detectron2's ``.pkl``: numpy arrays under ``model``."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
    # Protocol 4 keeps bytes as bytes; the older ones write them as text, half as large again.
    return pickle.dumps({"model": arrays, "__author__": "eco"}, protocol=4)


def write_huggingface(
    architecture: ArchitectureConfig,
    state: Mapping[str, Tensor],
    labels: Sequence[str],
    exit_depth: int | None = None,
    resize: ResizeConfig = KEEP_SIZE,
) -> dict[str, bytes]:
    """A Hugging Face Mask2Former folder.

    Args:
        exit_depth: Cut the encoder at this exit; None keeps all layers.
        resize: How images are resized for this model; by default they keep their size.

    Returns:
        File contents by name: configuration, image processor, weights.

    Raises:
        UsageError: transformers has no such model, or the model no such exit.
    """
    check_expressible(architecture)
    exits = architecture.exits
    depth = exits.deepest if exit_depth is None else exit_depth
    kept = cut_encoder(state, exits, depth)
    renamed, unknown = from_original(kept, HF_MASK2FORMER)
    left = [name for name in unknown if not name.endswith(".relative_position_index")]
    if left:
        raise UsageError(f"transformers has no place for {', '.join(left[:5])}. Export with --format original.")
    for name, tensor in list(renamed.items()):
        # Frozen norms have no step counter, the peer's norms insist on one.
        if name.endswith(".running_mean"):
            counter = name.removesuffix("running_mean") + "num_batches_tracked"
            renamed.setdefault(counter, torch.zeros((), dtype=torch.int64))
        renamed[name] = tensor.detach().cpu().contiguous()
    files = {
        name: (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
        for name, content in folder_configs(architecture, labels, len(exits.layers_of(depth)), resize).items()
    }
    tensors = with_empty_weight(renamed, architecture.num_classes)
    return files | {"model.safetensors": save(dict(sorted(tensors.items())), metadata={"format": "pt"})}
