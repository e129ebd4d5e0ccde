"""Evaluation of a parent and its gate beside their controls.

Inputs: ``parent``; ``gate``, optional; ``derived``, added here when only the gate is to be run: the table that the gate
was fitted on tells the fixed exits' results, if it has this split; ``mirror``, added here if that table has the mirror
images too, which tell what is attainable. The summary holds the rows shown on screen. Files:
``images.parquet`` (quality of each image at each exit, the gate's and the oracle's choice), ``classes.parquet`` (every
row by class), and the gate's predictions, else the deepest exit's: ``predictions.zip``, panoptic maps as panopticapi
reads them, or ``detections.json``, COCO's results.

Images are scored in parts that follow from the data set alone; processes share the parts, parts survive a kill, and
sums run in the order of the data set. So the numbers are the same for any number of processes. Milliseconds belong to
the machine and stand in the provenance.
"""

from collections.abc import Mapping
from pathlib import Path

from ecocli.artifacts.action import Action, Made, Plan
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.digest import sha256_file
from ecocli.artifacts.lineage import open_gate
from ecocli.artifacts.manifest import DerivedManifest, EvaluationManifest, GateManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.config.evaluate import EvaluateConfig
from ecocli.config.exported import PLAN_FILE, GraphsConfig
from ecocli.data.categories import check_trained_categories
from ecocli.data.datasets import require_drawn
from ecocli.errors import ArtifactError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.stages.evaluate.subject import EvaluationSubject
from ecocli.tasks.registry import task_of

STAGE = "eval"
SCHEMA_VERSION = 6


def plan(
    config: EvaluateConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime, *, draw: bool = True
) -> Plan[EvaluationManifest]:
    """Open what is needed, check that it fits together, and say exactly what is asked.

    Args:
        draw: Whether the ``shapes`` are drawn where they are not there yet; otherwise that is a `NotDrawnError`.

    Raises:
        ArtifactError: An input is damaged, or the gate was fitted for another parent.
        DataError: The data set is missing, faulty, or of other categories than the parent.
        UsageError: There is no such data set, no such engine, or no gate that chooses at this price.
        InterruptedRunError: From the work: a signal stopped the evaluation; finished parts are kept.
    """
    parent = store.get(inputs["parent"], ParentManifest)
    if config.beta is not None and "gate" not in inputs:
        raise UsageError(f"beta is {config.beta:g}, a price for a gate to choose exits at, and there is no gate.")
    gate = open_gate(store, inputs["gate"], parent, config.beta) if "gate" in inputs else None
    task = task_of(parent.manifest.architecture)
    if strange := sorted(set(config.metrics) - set(task.further_metrics)):
        raise UsageError(
            f"The metrics {', '.join(strange)} are none of {parent.manifest.architecture.name}, which is always "
            "measured by all of its own. Leave --metrics out."
        )
    if config.rules != "coco" and not task.further_metrics:
        raise UsageError(
            f"The rules {config.rules} are for mIoU and the AP of masks; {parent.manifest.architecture.name} predicts "
            "boxes, whose AP follows COCO's rules. Leave --rules out."
        )
    if not draw:
        require_drawn(config.dataset)
    dataset = task.open(config.dataset, config.split)
    check_trained_categories(parent.digest, parent.manifest.categories, dataset.name, dataset.categories)
    fingerprint = runtime.world.broadcast_object(dataset.fingerprint if runtime.world.is_main else "")
    depths = parent.manifest.exit_depths if config.graphs is None else _exits_of_graphs(config.graphs)
    # The table has torch's results, so graphs run at every exit.
    found = None if gate is None or config.graphs is not None else _find_derived(store, gate, config, fingerprint)
    derived = None if config.every_exit else found
    mirror = found if found is not None and found.manifest.mirrored else None
    added = {"derived": derived, "mirror": mirror}
    roles = {**inputs, **{role: table.digest for role, table in added.items() if table is not None}}
    fingerprints = {config.split: fingerprint}
    if config.wants_instance_file and (instances := getattr(dataset, "instance_file", None)) is not None:
        fingerprints[f"{config.split}-instances"] = sha256_file(instances)
    action = Action(STAGE, SCHEMA_VERSION, config, roles, fingerprints)
    if config.graphs is not None and store.find_action(action.digest) is None:
        _check_graphs(config.graphs)
    subject = EvaluationSubject(parent, gate, dataset, depths, derived, mirror)

    def work(folder: Path) -> Made[EvaluationManifest] | None:
        # torch is loaded only where something is computed; a result that is there is returned without it.
        from ecocli.stages.evaluate.work import evaluate

        return evaluate(action, config, subject, runtime, folder)

    return Plan(action, EvaluationManifest, work)


def _check_graphs(graphs: GraphsConfig) -> None:
    from ecocli.inference.engines import check_graphs, read_plan

    folder = Path(graphs.folder)
    check_graphs(folder, read_plan(folder), graphs.engine)


def _exits_of_graphs(graphs: GraphsConfig) -> tuple[int, ...]:
    """The exits of a folder that is still the one that was asked for."""
    from ecocli.inference.engines import read_plan

    folder = Path(graphs.folder)
    if sha256_file(folder / PLAN_FILE) != graphs.plan:
        raise ArtifactError(f"{folder} is another export than the one asked for. Run the command again.")
    return read_plan(folder).exit_depths


def _find_derived(
    store: Store, gate: Artifact[GateManifest], config: EvaluateConfig, fingerprint: str
) -> Artifact[DerivedManifest] | None:
    """Return the gate's derived table if it measured these very images at this very size, in the same precision."""
    if "derived" not in gate.manifest.inputs:
        return None
    derived = store.get(gate.manifest.inputs["derived"], DerivedManifest)
    manifest = derived.manifest
    fits = (
        config.split in manifest.splits
        and manifest.dataset_fingerprints.get(config.split) == fingerprint
        and manifest.dataset.test_resize == config.dataset.test_resize
        and manifest.precision == config.precision
        # Of detections, the quality of an image is AP here.
        and manifest.quality in ("pq", "ap")
    )
    return derived if fits else None
