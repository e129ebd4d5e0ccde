"""Every architecture the tool can build, of any task."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from ecocli.config.architecture import ARCHITECTURES, ArchitectureConfig
from ecocli.config.detr import DETR_ARCHITECTURES, DetrConfig
from ecocli.config.maskformer import MASKFORMER_ARCHITECTURES, MaskFormerConfig
from ecocli.errors import UsageError


def _kind(value: Any) -> str:
    """Which of them it is; without a ``kind`` it is a Mask2Former, the oldest."""
    return str(value.get("kind", "mask2former") if isinstance(value, Mapping) else getattr(value, "kind", ""))


AnyArchitecture = Annotated[
    Annotated[ArchitectureConfig, Tag("mask2former")]
    | Annotated[DetrConfig, Tag("detr")]
    | Annotated[MaskFormerConfig, Tag("maskformer")],
    Discriminator(_kind),
]
Segmentation = ArchitectureConfig | MaskFormerConfig
"""What predicts panoptic maps."""

ALL_ARCHITECTURES: dict[str, AnyArchitecture] = {
    **ARCHITECTURES,
    **DETR_ARCHITECTURES,
    **MASKFORMER_ARCHITECTURES,
}
"""One entry per name of ``--arch``."""


def require_segmentation(architecture: AnyArchitecture, wanted: str) -> Segmentation:
    """Give the architecture of a segmentation.

    Args:
        wanted: What needs masks, with its article.

    Raises:
        UsageError: It is a detector.
    """
    if not isinstance(architecture, Segmentation):
        raise UsageError(f"{architecture.name} is a detector, which predicts boxes; {wanted} needs a segmentation.")
    return architecture
