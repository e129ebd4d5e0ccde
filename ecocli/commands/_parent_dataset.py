"""The data set that belongs to a parent, as the lowest layer of settings of the commands that run it."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from ecocli.commands.common import environment_data_root
from ecocli.config.loading import deep_merge
from ecocli.errors import UsageError

if TYPE_CHECKING:
    from ecocli.artifacts.store import Store


def parent_dataset_preset(store: "Store", parent: str, settings: Mapping[str, object]) -> Mapping[str, object]:
    """Start from the data the parent was trained on, unless the user names other data.

    A user's own data set is named by a path, which is another one from another folder: a file of the same name is the
    same data set, and keeps its recipe.

    Args:
        settings: What the user said, merged.

    Raises:
        UsageError: The parent was imported with categories of no built-in data set, and no data set is named.
    """
    from ecocli.artifacts.manifest import ParentManifest
    from ecocli.data.categories import CITYSCAPES, COCO, SHAPES

    manifest = store.get(parent, ParentManifest).manifest
    root = {"dataset": {"root": environment_data_root()}}
    named = settings.get("dataset")
    trained = manifest.dataset
    if trained is not None and not (
        isinstance(named, Mapping) and "name" in named and _base_name(named["name"]) != _base_name(trained.name)
    ):
        return deep_merge({"dataset": trained.model_dump(mode="json")}, root)
    if isinstance(named, Mapping) and "name" in named:
        return root
    # An imported parent says no more than its categories.
    names = [entry.name for entry in manifest.categories]
    for known, table in (("coco", COCO), ("cityscapes", CITYSCAPES), ("shapes", SHAPES)):
        things = [category.name for category in table if category.is_thing]
        if names in ([category.name for category in table], things):
            return deep_merge({"dataset": {"name": known}}, root)
    raise UsageError(
        f"The parent {parent} does not say which data set it belongs to, and its categories are none of the built-in "
        "ones. Name the data with --dataset."
    )


def _base_name(name: object) -> str:
    return PurePath(str(name)).name
