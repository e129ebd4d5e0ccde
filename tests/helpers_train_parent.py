"""Step A on a few generated images: settings, and one call that trains."""

from pathlib import Path
from typing import Any

from helpers_stages import run_stage
from helpers_training import tiny_config

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.config.train_parent import TrainParentConfig
from ecocli.runtime.context import Runtime
from ecocli.stages import train_parent
from ecocli.stages.train_parent import TrainPlan

SHAPES = {"train": 12, "val": 4, "scenes": {"size": 64}}


def settings(data_root: Path, **changes: Any) -> TrainParentConfig:
    """Two steps of the tiny model on the shapes."""
    dataset = {"root": str(data_root), "shapes": SHAPES}
    return tiny_config(**{"dataset": dataset, "batch_size": 2, "steps": 2, **changes})


def parent_of(config: TrainParentConfig, store: Store, **inputs: str) -> Artifact[ParentManifest]:
    """Train, as a command does."""
    return run_stage(train_parent, config, inputs, store, Runtime.quiet())


def plan(config: TrainParentConfig) -> TrainPlan:
    """Plan a training that starts from no parent."""
    return train_parent.plan(config, {}, Store("nowhere"), Runtime.quiet())
