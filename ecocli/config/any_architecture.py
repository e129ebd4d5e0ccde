"""Every architecture the tool can build, of any task."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from ecocli.config.architecture import ARCHITECTURES, ArchitectureConfig
from ecocli.config.detr import DETR_ARCHITECTURES, DetrConfig
from ecocli.errors import UsageError


def _class_name(value: Any) -> str:
    """Which of the two it is; without a ``kind`` it is a segmentation, the older of them."""
    kind = value.get("kind", "mask2former") if isinstance(value, Mapping) else value.kind
    return DetrConfig.__name__ if kind == "detr" else ArchitectureConfig.__name__


AnyArchitecture = Annotated[
    Annotated[ArchitectureConfig, Tag("ArchitectureConfig")] | Annotated[DetrConfig, Tag("DetrConfig")],
    Discriminator(_class_name),
]

ALL_ARCHITECTURES: dict[str, ArchitectureConfig | DetrConfig] = {**ARCHITECTURES, **DETR_ARCHITECTURES}
"""One entry per name of ``--arch``."""


def require_segmentation(architecture: ArchitectureConfig | DetrConfig, command: str) -> ArchitectureConfig:
    """Give the architecture of a segmentation.

    Raises:
        UsageError: It is a detector, which the command does not take.
    """
    if isinstance(architecture, DetrConfig):
        raise UsageError(
            f"{architecture.name} is a detector, and `eco {command}` takes segmentations only. A detector is judged "
            "from its derived tables: `eco fit-gate` and `eco sweep` give the AP of gates, fixed exits and oracles."
        )
    return architecture
