"""AdamW with Mask2Former's parameter groups, and Muon for the matrices.

Source: Mask2Former (arXiv 2112.01527), its training script: the backbone learns at a fraction of the rate;
norms, embeddings and Swin's position tables have no weight decay. Everything else, biases included, has.

Muon (K. Jordan and others, 2024; torch's) turns the momentum of a matrix into the nearest orthogonal one before it is
applied. It is made for hidden layers: weights of linear layers and attention's input projections. Convolutions,
embeddings, biases and the class head stay with AdamW. Updates are scaled to the size of AdamW's (Moonlight, arXiv
2502.16982, section 2.2), so that both share the learning rate and the weight decay.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon

from ecocli.model.contracts import ExitNetwork
from ecocli.model.transformer_decoder import Attention

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.LayerNorm,
)
_UNDECAYED_NAMES = ("relative_position_bias_table", "absolute_pos_embed")


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are treated alike.

    Attributes:
        names: Names in the model's state dict, in its order.
        lr_multiplier: Factor of the learning rate.
        muon: Whether Muon moves them.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    lr_multiplier: float
    weight_decay: float
    muon: bool = False


def hidden_matrices(model: ExitNetwork) -> list[Tensor]:
    """List the matrices Muon is made for: weights of linear layers, except the class head, and in-projections."""
    found: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.class_head:
            found.append(module.weight)
        elif isinstance(module, Attention):
            found.append(module.in_proj_weight)
    return found


def group_parameters(
    model: nn.Module, weight_decay: float, backbone_lr_multiplier: float, muon: Iterable[Tensor] = ()
) -> list[ParameterGroup]:
    """Sort a model's trainable parameters by optimiser, learning rate and weight decay.

    Args:
        model: Its backbone is the child ``backbone``.
        muon: Parameters that Muon moves.
    """
    orthogonal = {id(parameter) for parameter in muon}
    found: dict[tuple[float, float, bool], list[tuple[str, nn.Parameter]]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            undecayed = isinstance(module, (*_NORMS, nn.Embedding)) or name in _UNDECAYED_NAMES
            in_backbone = module_name == "backbone" or module_name.startswith("backbone.")
            multiplier = backbone_lr_multiplier if in_backbone else 1.0
            key = (multiplier, 0.0 if undecayed else weight_decay, id(parameter) in orthogonal)
            found.setdefault(key, []).append((f"{module_name}.{name}" if module_name else name, parameter))
    return [
        ParameterGroup(tuple(name for name, _ in members), tuple(p for _, p in members), *key)
        for key, members in found.items()
    ]


def build_optimizers(groups: Sequence[ParameterGroup]) -> list[torch.optim.Optimizer]:
    """Make the optimisers, each with groups of its own; ``set_learning_rate`` gives them a rate before every step."""

    def settings(muon: bool) -> list[dict[str, Any]]:
        return [
            {
                "params": list(group.parameters),
                "weight_decay": group.weight_decay,
                "lr_multiplier": group.lr_multiplier,
            }
            for group in groups
            if group.muon == muon
        ]

    found: list[torch.optim.Optimizer] = []
    if others := settings(False):
        # One kernel for all parameters: on CPU, too, the steps of a small model are mostly overhead.
        found.append(AdamW(others, lr=0.0, fused=True))
    if matrices := settings(True):
        found.append(Muon(matrices, lr=0.0, adjust_lr_fn="match_rms_adamw"))
    return found


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Set the rate of every group, its multiplier included."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_multiplier"]
