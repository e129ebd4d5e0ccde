"""Model and gate as artifacts keep them, made ready to predict."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.pricing import biases_at
from ecocli.config.any_architecture import AnyArchitecture, Segmentation
from ecocli.config.exported import GateEntry
from ecocli.config.precision import InferencePrecision
from ecocli.errors import ArtifactError
from ecocli.inference.postprocess import PanopticRule
from ecocli.inference.predictor import ExitGate
from ecocli.model.builders import build_unfilled
from ecocli.model.compiled import compile_backbone
from ecocli.model.contracts import ExitNetwork
from ecocli.model.gate import Gate


def restore_model(
    architecture: AnyArchitecture,
    state: Mapping[str, Tensor],
    device: str,
    digest: str,
    precision: InferencePrecision = "float32",
    compile_warning: Callable[[str], None] | None = None,
) -> ExitNetwork:
    """Build a model with the weights of a parent, in evaluation mode and without gradients.

    Args:
        compile_warning: Asks for a compiled backbone, and is told if this machine cannot compile.

    Raises:
        ArtifactError: The weights do not belong to this architecture.
    """
    # Weights come from the state: nothing is drawn, so the caller's random numbers stay as they are.
    try:
        model = build_unfilled(architecture)
        types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        model.load_state_dict(dict(state), strict=True, assign=True)
        for name, tensor in state.items():
            if tensor.dtype != types[name]:
                raise ValueError(f"{name} is of type {tensor.dtype}, expected {types[name]}")
    except (RuntimeError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"The weights of the parent {digest} do not fit its architecture {architecture.name}: "
            f"{' '.join(str(error).split())[:300]}. Train or import the parent again."
        ) from error
    if precision != "float32":
        model.autocast_dtype = getattr(torch, precision)
    model = model.eval().requires_grad_(False).to(device)
    if compile_warning is not None:
        compile_backbone(model, compile_warning)
    return model


def restore_gate(
    state: Mapping[str, Tensor], fitted: GateManifest | GateEntry, device: str, digest: str, beta: float | None = None
) -> ExitGate:
    """Build a fitted gate, if wanted at another price of compute: that is no fit, only other biases.

    Args:
        state: State dict of the linear layer, ``linear.weight`` [E, C] and ``linear.bias`` [E].
        fitted: The gate's manifest, or what a folder of graphs says of it.
        beta: The wanted price of one unit of cost; None for the one it was fitted at.

    Raises:
        ArtifactError: The state is not that of a gate over these exits.
        UsageError: Another price is wanted of a gate that predicts the exit itself, which it does at one price only.
    """
    weight, feature, exit_depths = state.get("linear.weight"), fitted.feature, fitted.exit_depths
    if weight is None or weight.ndim != 2 or len(weight) != len(exit_depths):
        found = "no linear.weight" if weight is None else f"linear.weight {list(weight.shape)}"
        raise ArtifactError(
            f"The gate {digest} holds {found} over feature {feature!r}, expected one row for each of its "
            f"{len(exit_depths)} exits. Fit the gate again."
        )
    gate = Gate(weight.shape[1], len(exit_depths))
    try:
        gate.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ArtifactError(
            f"The tensors of the gate {digest} are not a gate's: {' '.join(str(error).split())[:300]}. Fit it again."
        ) from error
    biases = gate.linear.bias.data
    biases.copy_(torch.from_numpy(biases_at(fitted, digest, biases.double().numpy(), beta)))
    return ExitGate(gate.eval().requires_grad_(False).to(device), feature, tuple(exit_depths))


def panoptic_rule(architecture: Segmentation, categories: Sequence[tuple[int, bool]]) -> PanopticRule:
    """Take the thresholds of an architecture and the (id, is thing) of each category, in class order."""
    return PanopticRule(
        is_thing=tuple(is_thing for _, is_thing in categories),
        category_ids=tuple(category_id for category_id, _ in categories),
        object_threshold=architecture.object_mask_threshold,
        overlap_threshold=architecture.overlap_threshold,
    )
