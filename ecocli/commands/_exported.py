"""What commands ask of a folder of exported graphs before they run it."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from ecocli.artifacts.digest import sha256_file
from ecocli.artifacts.references import resolve
from ecocli.config.exported import PLAN_FILE, Engine, GraphsConfig
from ecocli.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from ecocli.artifacts.store import Store
    from ecocli.config.exported import ExportedPlan


def check_engine(engine: str | None, exported: Path | None, **excluded: object) -> None:
    """Check that an engine and a folder of graphs are named together, and nothing beside that a folder brings along.

    Args:
        excluded: Options that do not go with a folder, by name; None and False were not given.

    Raises:
        UsageError: They do not fit, or there is no such engine.
    """
    if engine not in (None, "torch", "onnxruntime", "openvino"):
        raise UsageError(f"--engine is {engine!r}, expected torch, onnxruntime or openvino.")
    if exported is None and engine not in (None, "torch"):
        raise UsageError(f"{engine} runs exported graphs. Write them with `eco export` and name them with --exported.")
    if exported is None:
        return
    if engine == "torch":
        raise UsageError("torch runs parents of the store, not exported graphs. Drop --exported or --engine.")
    named = [f"--{name}" for name, value in excluded.items() if value not in (None, False)]
    if named:
        raise UsageError(f"--exported brings its own parent, gate and precision. Drop {' and '.join(named)}.")


def open_graphs(folder: Path, engine: str | None) -> tuple["ExportedPlan", GraphsConfig]:
    """Read the plan of a folder, and give it with the settings that stand for it.

    Args:
        engine: What shall run it; None for the engine of its format.

    Raises:
        DataError: The folder is missing or no folder of graphs.
        ArtifactError: It is damaged.
    """
    from ecocli.inference.engines import ENGINE_OF_FORMAT, read_plan

    plan = read_plan(folder)
    chosen = ENGINE_OF_FORMAT[plan.format] if engine is None else cast(Engine, engine)
    return plan, GraphsConfig(engine=chosen, plan=sha256_file(folder / PLAN_FILE), folder=str(folder))


def inputs_of_graphs(store: "Store", plan: "ExportedPlan", folder: Path, no_gate: bool) -> dict[str, str]:
    """Find parent and gate of a folder in the store: results record them as what was evaluated.

    Raises:
        ArtifactError: They are not there.
    """
    wanted = {"parent": plan.parent}
    if plan.gate is not None and not no_gate:
        wanted["gate"] = plan.gate.digest
    try:
        return {kind: resolve(store, digest, kind) for kind, digest in wanted.items()}
    except ArtifactError as error:
        raise ArtifactError(
            f"{error} {folder} was exported from it. Name the store that has it with --store, or import it."
        ) from error
