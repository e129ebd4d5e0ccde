"""Weights of one model as the start of another.

All entries must fit, with exceptions that re-targeting a model needs: the class head is drawn anew where the number of
classes differs, an encoder may have fewer layers than the one the weights come from (its first ones are taken), and of
a model of another kind the backbone alone is taken. Batch norm's counters of steps do not count, since frozen batch
norm has none. Anything else that does not fit is an error, since a silently missing layer would only show in the
results.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from ecocli.errors import ArtifactError
from ecocli.model.contracts import ExitNetwork

_BACKBONE = "backbone."
_COUNTER = ".num_batches_tracked"


def start_from(model: ExitNetwork, weights: Mapping[str, Tensor], source: str) -> list[str]:
    """Load what fits of a parent's weights.

    Args:
        weights: Entries of another model's state dict.

    Returns:
        What was not taken, one sentence each.

    Raises:
        ArtifactError: The weights are of another architecture.
    """
    taken, notes = fitting_weights(model, weights, source)
    model.load_state_dict({**model.state_dict(), **taken})
    return notes


def fitting_weights(
    model: ExitNetwork, weights: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Choose what fits; only names and shapes of the model matter, so its weights may be unfilled.

    Raises:
        ArtifactError: The weights are of another architecture.
    """
    own = model.state_dict()
    uncounted = {name for name in own if name.endswith(_COUNTER) and name not in weights}
    weights = {n: t for n, t in weights.items() if n in own or not n.endswith(_COUNTER)}
    notes = []
    if {name for name in own if not name.startswith(_BACKBONE)}.isdisjoint(weights):
        weights = {n: t for n, t in own.items() if not n.startswith(_BACKBONE)} | {
            n: t for n, t in weights.items() if n.startswith(_BACKBONE)
        }
        notes.append(f"The backbone alone is taken: {source} is of another architecture.")
    dropped = sorted(name for name in weights if name not in own)
    compared = [name for name in own if name not in uncounted]
    class_head, encoder_layers = _prefix(model, model.class_head), _prefix(model, model.encoder_layers)
    fresh = sorted(name for name in compared if name not in weights or own[name].shape != weights[name].shape)
    new_head = [name for name in fresh if name in weights and name.startswith(class_head)]
    misfits = [
        *(f"{name} is missing" for name in fresh if name not in weights),
        *(
            f"{name} has shape {list(weights[name].shape)}, expected {list(own[name].shape)}"
            for name in fresh
            if name in weights and name not in new_head
        ),
        *(f"{name} is unknown" for name in dropped if not name.startswith(encoder_layers)),
    ]
    if misfits:
        raise ArtifactError(
            f"The weights of {source} do not fit the architecture: {misfits[0]}"
            + (f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else "")
            + ". Leave out --arch and --layers to take the architecture of the weights, or name other weights "
            "with --init."
        )
    if new_head:
        notes.append("The class head is drawn anew: the number of classes differs.")
    if dropped:
        notes.append(f"The deeper encoder layers are left out: {len(dropped)} tensors.")
    return {name: weights[name] for name in compared if name not in fresh}, notes


def _prefix(model: nn.Module, part: nn.Module) -> str:
    """What the names of a part's parameters begin with."""
    names = [name for name, module in model.named_modules() if module is part]
    return f"{names[0]}."
