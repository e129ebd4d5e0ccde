"""mIoU and the AP of masks, each by the rules of a name; see ``ecocli.config.rules``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64

from ecocli.config.rules import RulesName
from ecocli.metrics.cityscapes_instance import cityscapes_instance_quality
from ecocli.metrics.instance import InstanceImage, instance_quality
from ecocli.metrics.results import AveragePrecisions
from ecocli.metrics.semantic import SemanticQuality, semantic_quality


@dataclass(frozen=True)
class Rules:
    """How to score.

    Attributes:
        semantic: From the confusion matrix of a data set to mIoU.
        instance: From the instances of all images to AP.
        uses_void: Whether AP asks for the unlabelled pixels.
    """

    semantic: Callable[[Int64[np.ndarray, "K K"] | Float64[np.ndarray, "K K"]], SemanticQuality]
    instance: Callable[[Sequence[InstanceImage]], AveragePrecisions]
    uses_void: bool


RULES: Mapping[RulesName, Rules] = {
    "coco": Rules(semantic_quality, instance_quality, uses_void=False),
    "cityscapes": Rules(partial(semantic_quality, absent=True), cityscapes_instance_quality, uses_void=True),
}
