"""Whose rules mIoU and the AP of masks follow: names, what they mean in words, and which one a data set has."""

from collections.abc import Mapping
from typing import Literal

RulesName = Literal["coco", "cityscapes"]

RULES: Mapping[RulesName, str] = {
    "coco": "mIoU over the classes that the truth holds; AP as pycocotools computes it",
    "cityscapes": "mIoU and AP as cityscapesScripts computes them, mIoU over the classes that the truth or the "
    "prediction holds",
}
"""What a table under these rules shows."""

BOX_RULES = "AP of boxes by COCO's rules, as pycocotools computes it."
"""What every table of a detector shows."""


def rules_of(dataset: str) -> RulesName:
    """Choose the rules that the published figures of a data set follow."""
    return "cityscapes" if dataset == "cityscapes" else "coco"
