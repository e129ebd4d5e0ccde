"""The recipes of the built-in data sets: what Step A takes below everything that the user says.

Sources: Mask2Former (arXiv 2112.01527), its COCO and Cityscapes settings, and ECO-M2F (arXiv
2404.15244), which keeps them. Differences: bfloat16 in place of float16, since it needs no loss scaling and
runs everywhere; and one sampled exit per step for COCO and Cityscapes, as in the authors' own runs, where the
paper's Eq. 3 writes the sum over all exits (``exits_per_step = "all"``).
"""

import difflib
from collections.abc import Mapping
from typing import Any

from ecocli.config.any_architecture import ALL_ARCHITECTURES, AnyArchitecture
from ecocli.config.architecture import NormName
from ecocli.config.dataset import DATASET_PRESETS
from ecocli.config.loading import deep_merge
from ecocli.config.train_parent import MaskLossConfig, SetLossConfig
from ecocli.errors import UsageError

_LARGE: dict[str, Any] = {
    "exits_per_step": 1,
    "precision": "bfloat16",
    # As often as Mask2Former evaluates. 500 images are a tenth of COCO's validation split and all of Cityscapes'; five
    # exits on them are, in counted GFLOPs, 0.3 % (COCO) and 1.5 % (Cityscapes) of the 5,000 steps in between.
    "evaluation": {"every": 5000, "images": 500},
    "execution": {"checkpoint_every": 2000, "workers": 4},
}

_COCO: dict[str, Any] = {
    **_LARGE,
    "architecture": {"name": "m2f-r50", "num_classes": 133},
    "steps": 368_750,
    "batch_size": 16,
    "optimizer": {"lr": 1e-4, "clip_norm": 0.01},
    "schedule": {"kind": "step"},
}

TRAIN_PARENT_PRESETS: dict[str, Mapping[str, Any]] = {
    "shapes": {
        "architecture": {"name": "m2f-shapes", "num_classes": 13},
        # A quarter of the steps for the deepest exit, then one exit per step; figures: docs/step-a.md.
        "exits_per_step": 1,
        "deepest_first": 0.25,
        "alpha": "uniform",
        "steps": 1750,
        "batch_size": 8,
        "optimizer": {"kind": "muon", "lr": 4e-3, "backbone_lr_multiplier": 1.0, "clip_norm": 1.0},
        "schedule": {"kind": "polynomial", "power": 0.9, "warmup_steps": 100, "warmup_factor": 0.01},
        "loss": {"num_points": 256},
        "evaluation": {"every": 350, "images": 64, "batch_size": 16},
        "execution": {"checkpoint_every": 250},
    },
    "coco": _COCO,
    "cityscapes": {
        **_COCO,
        "architecture": {"name": "m2f-r50", "num_classes": 19},
        "steps": 90_000,
        "schedule": {"kind": "polynomial", "power": 0.9},
    },
}
"""Recipe of each built-in data set; a data set of the user's starts from COCO's, with its epochs in place of steps."""

_COCO_EPOCHS = 50.0
_DETR_COCO_EPOCHS = 300.0

# DETR's and MaskFormer's own, in place of large-scale jitter.
_SHORT_EDGES: dict[str, Any] = {
    "scale_range": None,
    "crop_height_px": None,
    "crop_width_px": None,
    "short_edges_px": list(range(480, 801, 32)),
    "long_edge_px": 1333,
}

# As the original trains: 300 epochs of 16 images, the rate drops at 200; its augmentation; no dropout.
_DETR_COCO: dict[str, Any] = {
    **_LARGE,
    **_LARGE,
    "architecture": {"name": "detr-r50", "num_classes": 91},
    "dataset": {"augmentation": {**_SHORT_EDGES, "window": {}}},
    "steps": 2_217_882,
    "batch_size": 16,
    "optimizer": {"lr": 1e-4, "backbone_lr_multiplier": 0.1, "weight_decay": 1e-4, "clip_norm": 0.1},
    "schedule": {"kind": "step", "warmup_steps": 0, "milestone_ratios": [2 / 3], "gamma": 0.1},
    "loss": SetLossConfig().model_dump(mode="json"),
}

DETECTION_PRESETS: dict[str, Mapping[str, Any]] = {
    "shapes": {
        **TRAIN_PARENT_PRESETS["shapes"],
        "architecture": {"name": "detr-shapes", "num_classes": 8},
        # Many small boxes take DETR far longer than masks take Mask2Former; of larger ones: pipelines/shapes-detr.
        "exits_per_step": 2,
        "keep_deepest": True,
        "deepest_first": 0.4,
        "steps": 2500,
        "batch_size": 16,
        "optimizer": {"lr": 1e-3, "backbone_lr_multiplier": 1.0, "clip_norm": 0.5, "weight_decay": 1e-4},
        "loss": SetLossConfig(class_weight=2.0, matching="deepest").model_dump(mode="json"),
    },
    "coco": _DETR_COCO,
}
"""The same for detectors."""

_MASKFORMER_COCO: dict[str, Any] = {
    **_LARGE,
    **_LARGE,
    # As the original trains: 300 epochs of 64 images, the rate drops at two thirds; DETR's short edges, not its window.
    "architecture": {"name": "maskformer-r50", "num_classes": 133},
    "dataset": {"augmentation": _SHORT_EDGES},
    "steps": 554_400,
    "batch_size": 64,
    "optimizer": {"lr": 1e-4, "backbone_lr_multiplier": 0.1, "weight_decay": 1e-4, "clip_norm": 0.01},
    "schedule": {"kind": "step", "milestone_ratios": [2 / 3], "gamma": 0.1},
    "loss": MaskLossConfig().model_dump(mode="json"),
}

MASKFORMER_PRESETS: dict[str, Mapping[str, Any]] = {
    "shapes": {
        **TRAIN_PARENT_PRESETS["shapes"],
        "architecture": {"name": "maskformer-shapes", "num_classes": 13},
        "loss": MaskLossConfig().model_dump(mode="json"),
    },
    "coco": _MASKFORMER_COCO,
}
"""The same for MaskFormer."""

_RECIPES: Mapping[str, tuple[Mapping[str, Mapping[str, Any]], float]] = {
    "mask2former": (TRAIN_PARENT_PRESETS, _COCO_EPOCHS),
    "detr": (DETECTION_PRESETS, _DETR_COCO_EPOCHS),
    "maskformer": (MASKFORMER_PRESETS, _DETR_COCO_EPOCHS),
}
"""The recipes of each kind of architecture, and the epochs of COCO's, from which a data set of the user's starts."""

_TRAINED_NORMS: Mapping[str, NormName] = {"cityscapes": "sync_bn"}
"""Data sets whose recipe trains the batch norm that a preset's ResNet keeps frozen."""


# Mask2Former trains its Swin-L, pre-trained at 384 pixels, for 100 epochs of COCO, where all others have 50.
_LONGER_STEPS: Mapping[str, int] = {"m2f-swin-l-384": 737_500}


def train_parent_preset(
    settings: Mapping[str, Any], initial_architecture: AnyArchitecture | None = None
) -> dict[str, object]:
    """Choose the lowest layer of settings from what the user said.

    The data set picks the recipe, the architecture's name its sizes, and the number of encoder layers the exits:
    all from 2 to the deepest.

    Args:
        settings: What the user said, merged; names that do not exist are left to validation.
        initial_architecture: Architecture of the weights that training starts from; it replaces the recipe's, unless
            another one is named.

    Raises:
        UsageError: No preset has the architecture's name, and the settings do not describe it either.
    """
    dataset = _section(settings, "dataset")
    dataset_name = str(dataset.get("name", "shapes"))
    given = _section(settings, "architecture")
    if initial_architecture is not None and "name" not in given:
        sizes = initial_architecture
    else:
        usual = TRAIN_PARENT_PRESETS.get(dataset_name, _COCO)
        sizes = _named_architecture(given, usual["architecture"]["name"])
    recipes, epochs = _RECIPES[sizes.kind]
    recipe = recipes.get(dataset_name, recipes["coco"])
    if sizes.name in _LONGER_STEPS and recipe is _COCO:
        recipe, epochs = {**recipe, "steps": _LONGER_STEPS[sizes.name]}, 2.0 * epochs
    if dataset_name not in DATASET_PRESETS and "steps" not in settings:
        recipe = {**recipe, "epochs": epochs}
    backbone: dict[str, object] = sizes.backbone.model_dump(mode="json")
    given_kind = _section(given, "backbone").get("kind", sizes.backbone.kind)
    if given_kind != sizes.backbone.kind:
        backbone = {}  # keys of one kind are unknown to the other: its own defaults lie below what is given
    if (
        sizes is not initial_architecture
        and given_kind == "resnet"
        and backbone.get("norm", "frozen_bn") == "frozen_bn"
    ):
        backbone["norm"] = _TRAINED_NORMS.get(dataset_name, "frozen_bn")
    architecture = {
        **sizes.model_dump(mode="json"),
        "backbone": backbone,
        "num_classes": recipe["architecture"]["num_classes"],
    }
    exits = list(sizes.usual_exits(given))
    said_exits = settings.get("exit_depths", exits)
    count = len(said_exits) if isinstance(said_exits, list | tuple) else len(exits)
    sampling = _fitting_exits(recipe, count)
    if count == 1:  # all steps are the deepest exit's
        sampling["deepest_first"] = 0.0
    if settings.get("exits_per_step") == 1:  # one exit per step leaves no room for the recipe's rule
        sampling["keep_deepest"] = False
    return deep_merge({"dataset": {}}, recipe, {"architecture": architecture, "exit_depths": exits, **sampling})


def _fitting_exits(recipe: Mapping[str, Any], count: int) -> dict[str, object]:
    """Fit what a recipe says about its five exits to another number of exits."""
    alpha, per_step = recipe.get("alpha", "depth"), recipe["exits_per_step"]
    return {
        "alpha": alpha if isinstance(alpha, str) or len(alpha) == count else "depth",
        "exits_per_step": per_step if per_step == "all" or per_step < count else "all",
    }


def _named_architecture(given: Mapping[str, Any], usual: str) -> AnyArchitecture:
    name = str(given.get("name", usual))
    if name in ALL_ARCHITECTURES:
        return ALL_ARCHITECTURES[name]
    if "backbone" in given:  # an architecture of the user's own, described in full
        return ALL_ARCHITECTURES[usual]
    near = difflib.get_close_matches(name, ALL_ARCHITECTURES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(ALL_ARCHITECTURES))}."
    raise UsageError(
        f"The architecture {name!r} is unknown; {hint} An architecture of your own needs a section [architecture] "
        "with a backbone in the --config file."
    )


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, Mapping) else {}
