"""Published weights to a parent artifact with one exit, at full depth; an ECO-M2F to a parent and its gate.

The artifact holds ``model.safetensors`` under the original's names. A checkpoint that is damaged, of another model or
holds anything unexpected stops the import before anything is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ecocli.artifacts.action import Action, Made, Plan
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE
from ecocli.artifacts.manifest import GateManifest, ParentManifest
from ecocli.artifacts.provenance import Provenance
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import save_tensors
from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.import_weights import ImportRequest, ImportWeightsConfig
from ecocli.errors import DataError
from ecocli.model.builders import build_model
from ecocli.runtime.context import Runtime
from ecocli.tasks.registry import task_of
from ecocli.weights.files import load_state, source_digest
from ecocli.weights.formats import FORMATS
from ecocli.weights.loading import RecognisedState, fit_weights, recognise, shorten

STAGE = "import"
GATE_STAGE = "import-gate"
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Source:
    """A checkpoint, read and understood.

    Attributes:
        weights: Its tensors by the original's names.
        labels: Names of its classes, where it has them.
        digest: SHA-256 of its file, or over its files.
    """

    weights: RecognisedState
    architecture: AnyArchitecture
    labels: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class ImportPlan(Plan[ParentManifest]):
    """An import.

    Attributes:
        origin: The checkpoint's path, as the user said it.
    """

    origin: str = field(kw_only=True)
    source: Source = field(kw_only=True)
    request: ImportRequest = field(kw_only=True)


def read_source(path: Path, arch: str | None) -> Source:
    """Read a checkpoint and find out what it is.

    Args:
        path: File or Hugging Face folder.
        arch: Name of the preset that it must be, or None.

    Raises:
        DataError: It is missing, damaged, unknown, only a backbone, or of another model than the preset.
    """
    recognised = recognise(load_state(path), str(path))
    if not recognised.is_full:
        raise DataError(
            f"{path} is a {recognised.source}, expected a whole model. Start a training from it with "
            "`eco train-parent --init`."
        )
    architecture, labels = FORMATS[recognised.kind].read(path, recognised.tensors, arch)
    return Source(recognised, architecture, labels, source_digest(path))


def plan(config: ImportWeightsConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> ImportPlan:
    """Read the checkpoint and say exactly what is asked.

    Raises:
        DataError: See `read_source`. The work finds that tensors are missing; nothing is stored then.
        UsageError: The categories of its classes are not known.
    """
    source = read_source(Path(config.source), config.arch)
    architecture = source.architecture
    categories, resize = task_of(architecture).published_categories(config.categories, architecture, source.labels)
    request = ImportRequest(
        source_digest=source.digest,
        arch=config.arch,
        categories=tuple(category.recorded for category in categories),
        test_resize=resize,
    )
    action = Action(STAGE, SCHEMA_VERSION, request, inputs)
    exit_depths = _exit_depths(source, config.source)

    def work(_folder: Path) -> Made[ParentManifest]:
        model = build_model(source.architecture)
        report = fit_weights(model, source.weights, config.source)
        lacking = [*report.missing, *map(str, report.mismatched)]
        if lacking:
            raise DataError(
                f"{config.source} is no complete model: it lacks {shorten(lacking)}. Expected every tensor of "
                f"the architecture {source.architecture.name}."
            )
        runtime.log.info("%s: %s", config.source, report.summary())
        manifest = ParentManifest(
            **action.recorded,
            architecture=source.architecture,
            exit_depths=exit_depths,
            categories=request.categories,
            dataset=None,
            test_resize=request.test_resize,
            steps=0,
        )
        notes = {"source": config.source, "recognised_as": source.weights.source}
        return Made(manifest, {WEIGHTS_FILE: save_tensors(model.state_dict())}, Provenance.model_validate(notes))

    return ImportPlan(action, ParentManifest, work, origin=config.source, source=source, request=request)


def plan_gate(imported: ImportPlan, parent: Artifact[ParentManifest], runtime: Runtime) -> Plan[GateManifest] | None:
    """Say what the gate beside an imported parent is.

    The authors pool over padding as well, here it is left out: on images whose sides are no multiples of 32 the two may
    choose different exits.

    Args:
        parent: What came of the import.

    Returns:
        None where the checkpoint has no gate.
    """
    gate = imported.source.weights.gate
    if not gate:
        return None
    action = Action(GATE_STAGE, SCHEMA_VERSION, imported.request, {"parent": parent.digest})

    def work(_folder: Path) -> Made[GateManifest]:
        runtime.log.info(
            "The gate of %s was trained on means over padding too; here they leave it out, so that on padded images it "
            "may choose another exit.",
            imported.origin,
        )
        manifest = GateManifest(
            **action.recorded, exit_depths=parent.manifest.exit_depths, beta=0.0, feature="projected", metrics=None
        )
        notes = Provenance.model_validate({"source": imported.origin})
        return Made(manifest, {GATE_FILE: save_tensors(gate)}, notes)

    return Plan(action, GateManifest, work)


def _exit_depths(source: Source, origin: str) -> tuple[int, ...]:
    """The deepest exit, or with a gate the deepest ones that it chooses among.

    Raises:
        DataError: The gate does not fit the model.
    """
    layers, gate = source.architecture.exits.deepest, source.weights.gate
    if not gate:
        return (layers,)
    found = {name: tuple(tensor.shape) for name, tensor in gate.items()}
    exits = found.get("linear.bias", (0,))[0]
    expected = {"linear.weight": (exits, source.architecture.hidden_dim), "linear.bias": (exits,)}
    if found != expected or not 2 <= exits <= layers or not all(bool(t.isfinite().all()) for t in gate.values()):
        raise DataError(
            f"The gate in {origin} has the shapes {found}, expected finite weights of 2 to {layers} exits by "
            f"{source.architecture.hidden_dim} channels, and as many biases."
        )
    return tuple(range(layers - exits + 1, layers + 1))
