"""One call that plans a stage and executes the plan, as a command does."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ecocli.artifacts.action import execute
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.store import Store
from ecocli.config.base import Config
from ecocli.runtime.context import Runtime


def run_stage(
    stage: ModuleType,
    config: Config,
    inputs: Mapping[str, str],
    store: Store,
    runtime: Runtime | None = None,
    **options: Any,
) -> Artifact[Any]:
    """Run a stage; the options are those of ``execute``."""
    runtime = runtime or Runtime.quiet()
    return execute(stage.plan(config, inputs, store, runtime), store, runtime, **options)
