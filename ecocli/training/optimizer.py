"""AdamW with Mask2Former's parameter groups.

Source: Mask2Former (arXiv 2112.01527), its training script: the backbone learns at a fraction of the rate;
norms, embeddings and Swin's position tables have no weight decay. Everything else, biases included, has.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW

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
        parameters: The parameters.
        lr_multiplier: Factor of the learning rate.
        weight_decay: Decoupled weight decay.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    lr_multiplier: float
    weight_decay: float


def group_parameters(model: nn.Module, weight_decay: float, backbone_lr_multiplier: float) -> list[ParameterGroup]:
    """Sort a model's trainable parameters by learning rate and weight decay.

    Args:
        model: Its backbone is the child ``backbone``.
        weight_decay: Decay of the parameters that have one.
        backbone_lr_multiplier: Factor of the backbone's learning rate.
    """
    found: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            undecayed = isinstance(module, (*_NORMS, nn.Embedding)) or name in _UNDECAYED_NAMES
            in_backbone = module_name == "backbone" or module_name.startswith("backbone.")
            key = (backbone_lr_multiplier if in_backbone else 1.0, 0.0 if undecayed else weight_decay)
            found.setdefault(key, []).append((f"{module_name}.{name}" if module_name else name, parameter))
    return [
        ParameterGroup(tuple(name for name, _ in members), tuple(p for _, p in members), *key)
        for key, members in found.items()
    ]


def build_optimizer(groups: list[ParameterGroup]) -> AdamW:
    """Make the optimiser; ``set_learning_rate`` gives it a rate before every step."""
    return AdamW(
        [
            {
                "params": list(group.parameters),
                "weight_decay": group.weight_decay,
                "lr_multiplier": group.lr_multiplier,
            }
            for group in groups
        ],
        lr=0.0,
        # One kernel for all parameters: on CPU, too, the steps of a small model are mostly overhead.
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group, its multiplier included."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_multiplier"]
