"""Published Mask2Former weights to a parent artifact with one exit, at full depth; an ECO-M2F to a parent and its gate.

The artifact holds ``model.safetensors`` under the original's names. A checkpoint that is damaged, of another model or
holds anything unexpected stops the import before anything is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ecocli.artifacts.action import Action, Made, Plan
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE
from ecocli.artifacts.manifest import GateManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import save_tensors
from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.architecture import ARCHITECTURES
from ecocli.config.dataset import DATASET_PRESETS, ResizeConfig
from ecocli.config.detr import DETR_ARCHITECTURES, DetrConfig
from ecocli.config.import_weights import ImportRequest, ImportWeightsConfig
from ecocli.data.annotations import read_annotations
from ecocli.data.boxes import read_instances
from ecocli.data.categories import CITYSCAPES, COCO, SHAPES, Category
from ecocli.data.detection import class_indices
from ecocli.errors import DataError, UsageError
from ecocli.model.builders import build_model
from ecocli.runtime.context import Runtime
from ecocli.weights.architecture import apply_preset, infer_architecture, infer_as_preset
from ecocli.weights.detr import detr_from_folder, infer_detr
from ecocli.weights.files import load_state, source_digest
from ecocli.weights.huggingface import architecture_from_folder
from ecocli.weights.loading import RecognisedState, fit_weights, recognise, shorten

STAGE = "import"
GATE_STAGE = "import-gate"
SCHEMA_VERSION = 1

_TABLES: Mapping[str, tuple[Category, ...]] = {
    "coco": COCO,
    "coco-things": tuple(category for category in COCO if category.is_thing),
    "cityscapes": CITYSCAPES,
    "cityscapes-things": tuple(category for category in CITYSCAPES if category.is_thing),
    "shapes": SHAPES,
}
# A class count tells the published data set; the drawn one is never guessed.
_BY_COUNT = {len(_TABLES[name]): name for name in ("coco", "coco-things", "cityscapes", "cityscapes-things")}
# Labels such as LABEL_0 or "class 0" say nothing.
_EMPTY_LABELS = ("LABEL_", "class ")


@dataclass(frozen=True)
class Source:
    """A checkpoint, read and understood.

    Attributes:
        weights: Its tensors by the original's names.
        architecture: Its sizes.
        labels: Names of its classes, where it has them.
        digest: SHA-256 of its file, or over its files.
    """

    weights: RecognisedState
    architecture: AnyArchitecture
    labels: tuple[str, ...]
    digest: str


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
    labels: tuple[str, ...] = ()
    if recognised.is_detr:
        return _read_detr(path, recognised, arch)
    preset = None if arch is None else ARCHITECTURES[arch]
    if path.is_dir():
        architecture, labels = architecture_from_folder(path)
        architecture = architecture if preset is None else apply_preset(architecture, preset)
    elif preset is None:
        architecture = infer_architecture(recognised.tensors)
    else:
        architecture = infer_as_preset(recognised.tensors, preset)
    return Source(recognised, architecture, labels, source_digest(path))


def _read_detr(path: Path, recognised: RecognisedState, arch: str | None) -> Source:
    labels: tuple[str, ...] = ()
    if path.is_dir():
        found, labels = detr_from_folder(path, recognised.tensors)
    else:
        found = infer_detr(recognised.tensors)
    if arch is not None:
        named = DETR_ARCHITECTURES.get(arch)
        # Whether the last stage is dilated shows in no tensor.
        like = None if named is None else found.model_copy(update={"backbone": named.backbone, "name": arch})
        if (
            named is None
            or like is None
            or infer_detr(recognised.tensors, arch, named.heads).model_copy(
                update={"backbone": named.backbone, "name": arch, "num_classes": named.num_classes}
            )
            != named
        ):
            raise DataError(
                f"The checkpoint is of another model than {arch}: it is a {found.name} DETR. Leave --arch out to take "
                "the architecture from the checkpoint."
            )
        found = like
    return Source(recognised, found, labels, source_digest(path))


def plan(
    config: ImportWeightsConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime
) -> Plan[ParentManifest]:
    """Read the checkpoint and say exactly what is asked.

    Args:
        config: What the user says.
        inputs: Empty; an import takes nothing from the store.
        store: Where the parent goes.
        runtime: For the log.

    Raises:
        DataError: See `read_source`. The work finds that tensors are missing; nothing is stored then.
        UsageError: The categories of its classes are not known.
    """
    source = read_source(Path(config.source), config.arch)
    categories, resize = _categories_of(config.categories, source)
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
            steps=0,
        )
        provenance = {"source": config.source, "recognised_as": source.weights.source}
        return Made(manifest, {WEIGHTS_FILE: save_tensors(model.state_dict())}, provenance)

    return Plan(action, ParentManifest, work)


def plan_gate(
    config: ImportWeightsConfig, parent: Artifact[ParentManifest], runtime: Runtime
) -> Plan[GateManifest] | None:
    """Say what the gate beside an imported parent is.

    The authors pool over padding as well, here it is left out: on images whose sides are no multiples of 32 the two may
    choose different exits.

    Args:
        config: As for the parent.
        parent: What ``plan`` made of the same source.
        runtime: For the log.

    Returns:
        None where the checkpoint has no gate.
    """
    if len(parent.manifest.exit_depths) == 1:
        return None
    recognised = recognise(load_state(Path(config.source)), config.source)
    request = ImportRequest.model_validate(parent.manifest.stage_config, strict=False)
    action = Action(GATE_STAGE, SCHEMA_VERSION, request, {"parent": parent.digest})

    def work(_folder: Path) -> Made[GateManifest]:
        runtime.log.info(
            "The gate of %s was trained on means over padding too; here they leave it out, so that on padded images it "
            "may choose another exit.",
            config.source,
        )
        manifest = GateManifest(
            **action.recorded, exit_depths=parent.manifest.exit_depths, beta=0.0, feature="projected", metrics=None
        )
        return Made(manifest, {GATE_FILE: save_tensors(recognised.gate)}, {"source": config.source})

    return Plan(action, GateManifest, work)


def _exit_depths(source: Source, origin: str) -> tuple[int, ...]:
    """The deepest exit, or with a gate the deepest ones that it chooses among.

    Raises:
        DataError: The gate does not fit the model.
    """
    layers, gate = source.architecture.exits.deepest, source.weights.gate
    if not gate or isinstance(source.architecture, DetrConfig):
        return (layers,)
    found = {name: tuple(tensor.shape) for name, tensor in gate.items()}
    exits = found.get("linear.bias", (0,))[0]
    expected = {"linear.weight": (exits, source.architecture.pixel_decoder.hidden_dim), "linear.bias": (exits,)}
    if found != expected or not 2 <= exits <= layers or not all(bool(t.isfinite().all()) for t in gate.values()):
        raise DataError(
            f"The gate in {origin} has the shapes {found}, expected finite weights of 2 to {layers} exits by "
            f"{source.architecture.pixel_decoder.hidden_dim} channels, and as many biases."
        )
    return tuple(range(layers - exits + 1, layers + 1))


def _box_categories(named: str | None, num_classes: int) -> tuple[Category, ...]:
    """Categories of a detector, whose classes are their ranks or COCO's raw ids."""
    things = tuple(category for category in COCO if category.is_thing)
    table = things if named in (None, "coco") else read_instances(Path(str(named))).categories
    try:
        class_indices(table, num_classes)
    except DataError as error:
        raise UsageError(
            f"{error} Say what the classes are with --categories and an instance annotation file."
        ) from error
    return table


def _categories_of(named: str | None, source: Source) -> tuple[tuple[Category, ...], ResizeConfig]:
    if isinstance(source.architecture, DetrConfig):
        preset = DATASET_PRESETS["coco"]
        return _box_categories(named, source.architecture.num_classes), ResizeConfig(**preset["test_resize"])
    count = source.architecture.num_classes
    name = _BY_COUNT.get(count) if named is None else named
    if name is None:
        raise UsageError(
            f"The model has {count} classes, neither COCO's {len(COCO)} nor Cityscapes' {len(CITYSCAPES)} nor the "
            "things among them. Say what they are with --categories and a panoptic annotation file."
        )
    table = _TABLES[name] if name in _TABLES else read_annotations(Path(name)).categories
    if len(table) != count:
        raise UsageError(f"{name} has {len(table)} categories, but the model has {count} classes.")
    labels = [label for label in source.labels if not label.startswith(_EMPTY_LABELS)]
    known = {category.name.lower() for category in table}
    # Spelling differs a little between releases; a table of something else has hardly a name in common.
    if named is None and labels and sum(label.lower() in known for label in labels) < len(labels) / 2:
        raise UsageError(
            f"The model has {count} classes like {name}, but calls them {shorten(labels)}. Say what they are with "
            f"--categories: {name}, or a panoptic annotation file."
        )
    preset = DATASET_PRESETS.get(name.removesuffix("-things"), DATASET_PRESETS["coco"])
    return table, ResizeConfig(**preset.get("test_resize", {}))
