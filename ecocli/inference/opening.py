"""Parent and gate of a store, or a folder of exported graphs, made ready to predict pictures."""

from collections.abc import Callable
from pathlib import Path

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE
from ecocli.artifacts.manifest import GateManifest, ParentManifest
from ecocli.artifacts.pricing import check_price
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.dataset import ResizeConfig
from ecocli.config.precision import InferencePrecision
from ecocli.data.categories import Category
from ecocli.errors import UsageError
from ecocli.inference.engines import check_graphs, open_engine, read_plan
from ecocli.inference.loading import restore_gate, restore_model
from ecocli.inference.photos import PhotoPredictor


def open_predictor(
    parent: Artifact[ParentManifest],
    gate: Artifact[GateManifest] | None,
    exit_depth: int,
    device: str,
    *,
    beta: float | None = None,
    precision: InferencePrecision = "float32",
    compile_warning: Callable[[str], None] | None = None,
    resize: ResizeConfig | None = None,
) -> PhotoPredictor:
    """Load a parent and a gate.

    Args:
        gate: Chooses the exit of each picture, or None.
        exit_depth: The exit where there is no gate.
        beta: Price of compute that the gate chooses at; None for the one it was fitted at.
        compile_warning: Asks for a compiled backbone, and is told if this machine cannot compile.
        resize: Size rule of the network's input; None for the parent's own.

    Raises:
        ArtifactError: Weights are damaged or do not fit.
        UsageError: The gate has one price only.
    """
    restored = None
    if gate is not None:
        restored = restore_gate(gate.read(GATE_FILE, load_tensors), gate.manifest, device, gate.digest, beta)
    architecture = parent.manifest.architecture
    categories = tuple(map(Category.of, parent.manifest.categories))
    weights = parent.read(WEIGHTS_FILE, load_tensors)
    return PhotoPredictor(
        model=restore_model(architecture, weights, device, parent.digest, precision, compile_warning),
        gate=restored,
        exit_depth=exit_depth,
        architecture=architecture,
        resize=resize or parent.manifest.test_resize,
        categories=categories,
        device=device,
    )


def exported_model(
    folder: Path,
    exit_depth: int | None,
    beta: float | None,
    *,
    engine: str | None = None,
    resize: ResizeConfig | None = None,
) -> Callable[[int | None], PhotoPredictor]:
    """Read the plan of a folder of graphs; the graphs are loaded when the result is called.

    Args:
        exit_depth: Encoder layers to run; None for the choice of the folder's gate, without one the deepest exit.
        beta: Price of compute that the gate chooses at; None for the one it was exported at.
        engine: ``onnxruntime`` or ``openvino``; None for the one of the folder's format.
        resize: Size rule of the network's input; None for the folder's own.

    Returns:
        A function of the number of CPU threads, None for the engine's choice.

    Raises:
        DataError: The folder is missing or incomplete.
        ArtifactError: It is damaged or of another schema.
        UsageError: There is no such exit or price, or the engine is not installed.
    """
    plan = read_plan(folder)
    if exit_depth is not None and exit_depth not in plan.exit_depths:
        offered = ", ".join(map(str, plan.exit_depths))
        raise UsageError(f"The graphs in {folder} have no exit at depth {exit_depth}; they have {offered}.")
    entry = plan.gate if exit_depth is None else None
    if entry is not None:
        check_price(entry, entry.digest, beta)
    elif beta is not None:
        raise UsageError("A price is for a gate to choose exits at, and none chooses here. Drop beta, or the exit.")
    check_graphs(folder, plan, engine)
    gate = None
    if entry is not None:
        gate = restore_gate(load_tensors(folder / GATE_FILE), entry, "cpu", entry.digest, beta)

    def load(threads: int | None) -> PhotoPredictor:
        categories = tuple(map(Category.of, plan.categories))
        return PhotoPredictor(
            model=open_engine(folder, engine, threads),
            gate=gate,
            exit_depth=max(plan.exit_depths) if exit_depth is None else exit_depth,
            architecture=plan.architecture,
            resize=resize or plan.resize,
            categories=categories,
            device="cpu",
        )

    return load
