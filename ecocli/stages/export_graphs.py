"""A parent and its gate as a folder of graphs for ONNX Runtime or OpenVINO; nothing goes into the store.

Inputs: ``parent``; ``gate``, optional. The folder appears whole or not at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE, exit_of, open_gate
from ecocli.artifacts.manifest import GateManifest, ParentManifest
from ecocli.artifacts.pricing import price_of
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors, save_tensors
from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.dataset import ResizeConfig
from ecocli.config.export_graphs import ExportGraphsConfig
from ecocli.config.exported import PLAN_FILE, ExportedPlan, GateEntry, GraphEntry
from ecocli.config.precision import GraphPrecision
from ecocli.data.datasets import open_dataset, require_drawn
from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import InterruptedRunError, UsageError
from ecocli.export.folder import require_exporter, write_graphs
from ecocli.export.graphs import graph_modules, layer_name
from ecocli.export.quantise import quantise_graphs, require_nncf
from ecocli.inference.engines import ENGINE_OF_FORMAT, EngineModel, open_engine, require_engine
from ecocli.inference.loading import restore_gate, restore_model
from ecocli.model.mask2former import Mask2Former
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import check_output, replacing_folder, user_path
from ecocli.scoring.batches import load_batch
from ecocli.scoring.subset_evaluator import SubsetEvaluator, spread_positions
from ecocli.tasks.registry import task_of

# Graphs for any size are traced with this one; no side equals a side of another level.
_TRACED_SIZE = (128, 160)
_ANOTHER_PLACE = "name another place with --out"


@dataclass(frozen=True)
class GraphPlan:
    """What is to be written.

    Attributes:
        depth: The deepest exit.
        calibration: The images that set the scales of int8; None in another precision.
        validation: The images that PQ is measured on; None where it is not.
    """

    out: Path
    parent: Artifact[ParentManifest]
    architecture: ArchitectureConfig
    gate: Artifact[GateManifest] | None
    depth: int
    calibration: PanopticDataset | None
    validation: PanopticDataset | None


def plan(config: ExportGraphsConfig, inputs: Mapping[str, str], store: Store, *, draw: bool = True) -> GraphPlan:
    """Open parent, gate and data, and refuse what the run would refuse.

    Args:
        inputs: Digest of the ``parent``, and of its ``gate`` if there shall be one.
        draw: Whether the ``shapes`` are drawn where they are not there yet; otherwise that is a `NotDrawnError`.

    Raises:
        UsageError: The place is taken, settings do not fit the format, the parent or the gate, or the exporter or the
            engine is not installed.
        ArtifactError: Parent or gate are damaged or do not fit.
        DataError: The data set is missing or faulty.
    """
    out = user_path(config.out)
    if out.exists() and not config.replace:
        raise UsageError(f"{out} is there already. Name another place, or give --force to replace it.")
    if out.exists() and not (out / PLAN_FILE).is_file():
        raise UsageError(f"{out} is no folder of graphs, so it is not replaced. Name another place.")
    if config.precision == "bfloat16" and config.format == "onnx":
        raise UsageError("ONNX Runtime has no bfloat16 on CPUs. Export with --format openvino, or in float32.")
    for height, width in config.sizes:
        if height % 32 or width % 32:
            raise UsageError(f"The size {height}x{width} is no multiple of 32, as padded images are.")
    if config.precision == "int8" and config.dataset is None:
        raise UsageError("int8 needs images to set its scales on, and the parent names no data set. Add --dataset.")
    check_output(out.parent, _ANOTHER_PLACE)
    parent = store.get(inputs["parent"], ParentManifest)
    architecture = parent.manifest.architecture
    if not isinstance(architecture, ArchitectureConfig):
        raise UsageError(
            f"{architecture.name} is a {architecture.kind}, and graphs are of Mask2Former alone, with any encoder. "
            "Run it in torch, or export its weights with --format hf or original."
        )
    depth = exit_of(parent.manifest, config.exit_depth)
    gate = open_gate(store, inputs["gate"], parent, config.beta) if "gate" in inputs else None
    if gate is not None and max(gate.manifest.exit_depths) > depth:
        raise UsageError(
            f"The gate {gate.digest} chooses exits up to depth {max(gate.manifest.exit_depths)}, but the export "
            f"ends at {depth}. Drop --exit or --gate."
        )
    require_exporter(config.format)
    calibrated = config.precision == "int8"
    if calibrated:
        require_nncf()
    calibration, validation = None, None
    if config.dataset is not None and config.precision != "float32" and (calibrated or config.checked_images):
        require_engine(ENGINE_OF_FORMAT[config.format])
        if not draw:
            require_drawn(config.dataset)
        calibration = open_dataset(config.dataset, "train") if calibrated else None
        validation = open_dataset(config.dataset, "val") if config.checked_images else None
    return GraphPlan(out, parent, architecture, gate, depth, calibration, validation)


@dataclass(frozen=True)
class WrittenGraphs:
    """What was written.

    Attributes:
        precision: What its engine computes in on this machine.
        images: How many images PQ was measured on.
        before: PQ of torch in float32 by exit depth, 0..1; None where undefined.
        after: PQ of the graphs.
    """

    out: Path
    precision: GraphPrecision
    images: int
    before: Mapping[int, float | None]
    after: Mapping[int, float | None]


def run(config: ExportGraphsConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> WrittenGraphs:
    """Write the folder.

    Returns:
        The folder, and what another precision than float32 costs.

    Raises:
        UsageError: See ``plan``; or the folder cannot be written, or the exporter is not installed.
        ArtifactError: Parent or gate are damaged or do not fit.
        DataError: The data set is missing or faulty.
        InterruptedRunError: A signal asked to stop while PQ was measured; nothing was written.
    """
    planned = plan(config, inputs, store)
    out, manifest, fitted = planned.out, planned.parent.manifest, planned.gate
    weights = planned.parent.read(WEIGHTS_FILE, load_tensors)
    architecture = planned.architecture
    model = restore_model(architecture, weights, "cpu", planned.parent.digest)
    assert isinstance(model, Mask2Former)
    gate, entry = None, None
    if fitted is not None:
        state = fitted.read(GATE_FILE, load_tensors)
        gate = restore_gate(state, fitted.manifest, "cpu", fitted.digest, config.beta)
        entry = GateEntry(
            digest=fitted.digest,
            exit_depths=fitted.manifest.exit_depths,
            feature=gate.feature,
            head=fitted.manifest.head,
            beta=price_of(fitted.manifest, config.beta),
            exit_costs=fitted.manifest.exit_costs,
        )
    with replacing_folder(out, _ANOTHER_PLACE) as folder:
        depths = [depth for depth in manifest.exit_depths if depth <= planned.depth]
        parts = graph_modules(model, gate, depths)
        graphs: dict[str, GraphEntry] = {}
        fixed, named = bool(config.sizes), len(config.sizes) > 1
        for size in config.sizes or (_TRACED_SIZE,):
            graphs |= write_graphs(parts, size, fixed, config.format, folder, named=named)
        content = ExportedPlan(
            format=config.format,
            # Quantising begins with the float32 graphs.
            precision="float32" if config.precision == "int8" else config.precision,
            parent=planned.parent.digest,
            exits={str(depth): tuple(map(layer_name, model.exits.layers_of(depth))) for depth in depths},
            graphs=graphs,
            gate=entry,
            architecture=architecture,
            categories=manifest.categories,
            resize=config.test_resize or manifest.test_resize,
            sizes=config.sizes,
        )
        if gate is not None:
            (folder / GATE_FILE).write_bytes(save_tensors(gate.gate.state_dict()))
        _write_plan(folder, content)
        if config.precision == "int8":
            assert planned.calibration is not None
            floats = open_engine(folder, threads=runtime.threads)
            images = _calibration_images(config, planned.calibration, floats, content.resize)
            graphs = quantise_graphs(folder, floats, images, runtime.log)
            content = content.model_copy(update={"precision": "int8", "graphs": graphs})
            _write_plan(folder, content)
        written = _measured(config, planned, folder, model, content, runtime)
    runtime.log.info("Wrote %d graphs with exits at %s to %s.", len(graphs), content.exit_depths, out)
    return written


def _write_plan(folder: Path, content: ExportedPlan) -> None:
    (folder / PLAN_FILE).write_text(content.model_dump_json(indent=1) + "\n")


def _calibration_images(
    config: ExportGraphsConfig, dataset: PanopticDataset, model: EngineModel, resize: ResizeConfig
) -> list[Tensor]:
    """Training images spread over the split, each as the graphs take it."""
    positions = spread_positions(len(dataset), config.calibration_images)
    batches = [load_batch(dataset, [position], resize, model, "cpu") for position in positions]
    return [batch.images.images for batch in batches]


def _measured(
    config: ExportGraphsConfig,
    planned: GraphPlan,
    folder: Path,
    model: Mask2Former,
    content: ExportedPlan,
    runtime: Runtime,
) -> WrittenGraphs:
    """Measure PQ of torch in float32 and of the graphs on the same validation images."""
    out, dataset = planned.out, planned.validation
    if dataset is None:
        return WrittenGraphs(out, config.precision, 0, {}, {})
    graphs = open_engine(folder, threads=runtime.threads)
    task = task_of(content.architecture)
    score, load_truth = task.scorer(content.architecture, dataset.categories, "ap")
    evaluator = SubsetEvaluator(
        dataset,
        content.architecture,
        content.exit_depths,
        content.resize,
        runtime,
        score=score,
        load_truth=load_truth,
        qualities=lambda results: task.qualities(results, dataset.categories),
        images=config.checked_images,
        batch_size=1,
        precision="float32",
    )
    runtime.log.info("Measuring PQ on %d images, in torch and as graphs.", evaluator.num_images)
    found = []
    for scored in (model, graphs):
        qualities = evaluator.score(scored)
        if qualities is None:
            raise InterruptedRunError(
                f"Stopped by {runtime.stop.reason} while PQ was measured; nothing was written. Run the command again."
            )
        found.append({depth: quality["pq"] for depth, quality in qualities.items()})
    return WrittenGraphs(out, graphs.precision, evaluator.num_images, *found)
