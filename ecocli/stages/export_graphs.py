"""A parent and its gate as a folder of graphs for ONNX Runtime or OpenVINO; nothing goes into the store.

Inputs: ``parent``; ``gate``, optional. The folder appears whole or not at all.
"""

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE, exit_of, open_gate, size_rule
from ecocli.artifacts.manifest import GateManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors, save_tensors
from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.export_graphs import ExportGraphsConfig
from ecocli.config.exported import PLAN_FILE, ExportedPlan, GateEntry
from ecocli.errors import UsageError
from ecocli.export.folder import write_graphs
from ecocli.export.graphs import graph_modules, layer_name
from ecocli.inference.loading import restore_gate, restore_model
from ecocli.model.mask2former import Mask2Former
from ecocli.runtime.context import Runtime

# Graphs for any size are traced with this one; no side equals a side of another level.
_TRACED_SIZE = (128, 160)


@dataclass(frozen=True)
class GraphPlan:
    """What is to be written.

    Attributes:
        out: The folder.
        parent: The model.
        gate: Its gate, or None.
        depth: The deepest exit.
    """

    out: Path
    parent: Artifact[ParentManifest]
    gate: Artifact[GateManifest] | None
    depth: int


def plan(config: ExportGraphsConfig, inputs: Mapping[str, str], store: Store) -> GraphPlan:
    """Open parent and gate, and refuse what the run would refuse.

    Args:
        config: What to write and where.
        inputs: Digest of the ``parent``, and of its ``gate`` if there shall be one.
        store: Where they are.

    Raises:
        UsageError: The place is taken, or settings do not fit the format, the parent or the gate.
        ArtifactError: Parent or gate are damaged or do not fit.
    """
    out = Path(config.out)
    if out.exists() and not config.replace:
        raise UsageError(f"{out} is there already. Name another place, or give --force to replace it.")
    if out.exists() and not (out / PLAN_FILE).is_file():
        raise UsageError(f"{out} is no folder of graphs, so it is not replaced. Name another place.")
    if config.precision == "bfloat16" and config.format == "onnx":
        raise UsageError("ONNX Runtime has no bfloat16 on CPUs. Export with --format openvino, or in float32.")
    if config.size is not None and any(side % 32 for side in config.size):
        raise UsageError(f"The size {config.size[0]}x{config.size[1]} is no multiple of 32, as padded images are.")
    parent = store.get(inputs["parent"], ParentManifest)
    architecture = parent.manifest.architecture
    if not isinstance(architecture, ArchitectureConfig) or architecture.pixel_decoder.encoder.kind != "deformable":
        raise UsageError(f"A {architecture.name} cannot be written as graphs yet. Export a plain Mask2Former.")
    depth = exit_of(parent.manifest, config.exit_depth)
    gate = open_gate(store, inputs["gate"], parent, config.beta) if "gate" in inputs else None
    if gate is not None and max(gate.manifest.exit_depths) > depth:
        raise UsageError(
            f"The gate {gate.digest} chooses exits up to depth {max(gate.manifest.exit_depths)}, but the export "
            f"ends at {depth}. Drop --exit or --gate."
        )
    return GraphPlan(out, parent, gate, depth)


def run(config: ExportGraphsConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> Path:
    """Write the folder.

    Args:
        config: What to write and where.
        inputs: See ``plan``.
        store: Where they are.
        runtime: For the log.

    Returns:
        The folder.

    Raises:
        UsageError: See ``plan``; or the folder cannot be written, or the exporter is not installed.
        ArtifactError: Parent or gate are damaged or do not fit.
    """
    planned = plan(config, inputs, store)
    out, manifest, fitted = planned.out, planned.parent.manifest, planned.gate
    weights = load_tensors(planned.parent.path_of(WEIGHTS_FILE))
    architecture = manifest.architecture
    if not isinstance(architecture, ArchitectureConfig):
        raise UsageError(
            f"{architecture.name} is no Mask2Former, and graphs are written of those alone. Export its weights with "
            "--format original or hf."
        )
    model = restore_model(architecture, weights, "cpu", planned.parent.digest)
    assert isinstance(model, Mask2Former)
    gate, entry = None, None
    if fitted is not None:
        state = load_tensors(fitted.path_of(GATE_FILE))
        gate = restore_gate(state, fitted.manifest, "cpu", fitted.digest, config.beta)
        entry = GateEntry(
            digest=fitted.digest,
            exit_depths=fitted.manifest.exit_depths,
            feature=gate.feature,
            head=fitted.manifest.head,
            beta=fitted.manifest.beta if config.beta is None else config.beta,
            exit_costs=fitted.manifest.exit_costs,
        )
    beside = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        beside.mkdir(parents=True)
        parts = graph_modules(model, gate, planned.depth)
        size = _TRACED_SIZE if config.size is None else config.size
        content = ExportedPlan(
            format=config.format,
            precision=config.precision,
            parent=planned.parent.digest,
            exits={
                str(depth): tuple(map(layer_name, model.exits.layers_of(depth)))
                for depth in manifest.exit_depths
                if depth <= planned.depth
            },
            graphs=write_graphs(parts, size, config.size is not None, config.format, beside),
            gate=entry,
            architecture=architecture,
            categories=manifest.categories,
            resize=config.test_resize or size_rule(manifest),
            sizes=() if config.size is None else (config.size,),
        )
        if gate is not None:
            (beside / GATE_FILE).write_bytes(save_tensors(gate.gate.state_dict()))
        (beside / PLAN_FILE).write_text(content.model_dump_json(indent=1) + "\n")
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}). Name a place that can.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    runtime.log.info("Wrote %d graphs with exits at %s to %s.", len(parts), content.exit_depths, out)
    return out
