"""Parameters of a model by part."""

from collections.abc import Mapping

from torch import nn

from ecocli.config.any_architecture import AnyArchitecture
from ecocli.model.builders import build_unfilled


def count_parameters(architecture: AnyArchitecture) -> Mapping[str, int]:
    """Count parameters by part, with their ``total``; buffers are none."""
    model = build_unfilled(architecture)
    parts: dict[str, nn.Module] = {"backbone": model.backbone, **model.parameter_parts(), "total": model}
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
