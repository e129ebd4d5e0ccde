"""Profile of a model: GFLOPs per exit and part, and milliseconds on request.

Inputs: ``parent``, or none where the settings hold an architecture; ``gate``, optional, whose exits then give an
expected cost. The artifact is a report whose summary holds the GFLOPs. Milliseconds belong to the machine and stand in
its provenance: ``ms_per_image`` by exit, as ``fit-gate --profile`` reads them, and ``latency`` with every part. A
profile with milliseconds is measured anew every time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ecocli.artifacts.action import Action, Made, Plan
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import WEIGHTS_FILE, open_gate
from ecocli.artifacts.manifest import GateManifest, ParentManifest, ProfileManifest
from ecocli.artifacts.profile_summary import (
    ExpectedCost,
    InputLatency,
    Latency,
    ProfiledExit,
    ProfiledInput,
    ProfileSummary,
)
from ecocli.artifacts.provenance import NOTHING_RECORDED, Provenance
from ecocli.artifacts.store import Store
from ecocli.artifacts.summaries import GateMetrics
from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.dataset import KEEP_SIZE, DatasetConfig
from ecocli.config.profile_model import ProfileModelConfig
from ecocli.errors import UsageError
from ecocli.runtime.context import Runtime
from ecocli.runtime.seeds import derive_seed
from ecocli.tasks.registry import task_of

if TYPE_CHECKING:
    from ecocli.model.contracts import ExitNetwork
    from ecocli.profiling.gflops import ExitCosts

STAGE = "profile"
SCHEMA_VERSION = 2

Size = tuple[int, int]


@dataclass(frozen=True)
class ProfiledModel:
    """What is profiled."""

    architecture: AnyArchitecture
    exit_depths: tuple[int, ...]
    parent: Artifact[ParentManifest] | None
    gate: Artifact[GateManifest] | None


@dataclass(frozen=True)
class InputSizes:
    """Images that share one row of the table.

    Attributes:
        images: Number of images by (padded size, original size).
    """

    label: str
    images: Mapping[tuple[Size, Size], int]


def plan(
    config: ProfileModelConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime
) -> Plan[ProfileManifest]:
    """Open the inputs, check that they fit together, and say exactly what is asked.

    Raises:
        ArtifactError: An input is damaged, or the gate is another parent's.
        DataError: The data set of a ``.toml`` file is missing or faulty, or a folder of graphs is incomplete.
        UsageError: There is neither a parent nor an architecture, exits that the parent lacks are asked for, the gate
            was scored on no images, or the graphs' engine is not installed.
    """
    parent = store.get(inputs["parent"], ParentManifest) if "parent" in inputs else None
    if (parent is None) == (config.architecture is None):
        raise UsageError("A profile is of a parent (--parent) or of an architecture (--arch): name one of them.")
    if parent is None:
        assert config.architecture is not None
        subject = ProfiledModel(config.architecture, config.exit_depths, None, None)
    else:
        trained = parent.manifest.exit_depths
        strange = sorted(set(config.exit_depths) - set(trained))
        if strange:
            raise UsageError(f"The parent {parent.digest} has no exits at depths {strange}, only {list(trained)}.")
        gate = open_gate(store, inputs["gate"], parent) if "gate" in inputs else None
        if gate is not None:
            _scores_of(gate)
        subject = ProfiledModel(parent.manifest.architecture, config.exit_depths or trained, parent, gate)
    if config.graphs is not None and config.execution.latency:
        from ecocli.inference.engines import check_graphs, read_plan

        folder = Path(config.graphs.folder)
        check_graphs(folder, read_plan(folder), config.graphs.engine)
    found = {} if config.dataset is None else _validation_sizes(config.dataset)
    action = Action(STAGE, SCHEMA_VERSION, config, dict(inputs))

    def work(_folder: Path) -> Made[ProfileManifest]:
        sizes = _input_sizes(config, found, subject.architecture.size_divisor)
        summary = _summary(config, subject, sizes)
        measured = _measured(config, subject, sizes, runtime) if config.execution.latency else NOTHING_RECORDED
        return Made(ProfileManifest(**action.recorded, summary=summary), {}, measured)

    return Plan(action, ProfileManifest, work, anew=config.execution.latency)


def _input_sizes(config: ProfileModelConfig, found: Mapping[Size, int], divisor: int) -> list[InputSizes]:
    from ecocli.scoring.batches import padded_size

    if config.dataset is None:
        return [
            InputSizes(f"{size[0]}x{size[1]}", {(padded_size(size, KEEP_SIZE, divisor), size): 1})
            for size in config.sizes
        ]
    rule = config.dataset.test_resize
    images: dict[tuple[Size, Size], int] = {}
    for size, count in found.items():
        images[padded_size(size, rule, divisor), size] = count
    return [InputSizes(f"{Path(config.dataset.name).stem} val", images)]


def _validation_sizes(dataset: DatasetConfig) -> Mapping[Size, int]:
    """Original sizes of the validation images: known ones for the built-in data sets, the annotations' otherwise."""
    from collections import Counter

    from ecocli.profiling.image_sizes import cityscapes_sizes, coco_sizes, shapes_sizes

    if dataset.name == "coco":
        return coco_sizes()
    if dataset.name == "cityscapes":
        return cityscapes_sizes()
    if dataset.name == "shapes":
        return shapes_sizes(dataset.drawn.scenes.size, dataset.drawn.val)
    from ecocli.data.datasets import open_dataset

    records = open_dataset(dataset, "val", check_files=False).records
    return Counter((record.height, record.width) for record in records)


def _costs(config: ProfileModelConfig, subject: ProfiledModel, sizes: InputSizes) -> "ExitCosts":
    from ecocli.profiling.gflops import count_gflops, mean_costs

    feature = "res5" if subject.gate is None else subject.gate.manifest.feature
    depths = subject.exit_depths if subject.gate is None else subject.gate.manifest.exit_depths
    return mean_costs(
        [
            (
                count_gflops(
                    subject.architecture,
                    padded,
                    original,
                    depths,
                    convention=config.convention,
                    gate_feature=feature,
                ),
                count,
            )
            for (padded, original), count in sizes.images.items()
        ]
    )


def _summary(config: ProfileModelConfig, subject: ProfiledModel, sizes: Sequence[InputSizes]) -> ProfileSummary:
    from ecocli.profiling.parameters import count_parameters

    inputs = []
    for entry in sizes:
        costs = _costs(config, subject, entry)
        inputs.append(
            ProfiledInput(
                input=entry.label,
                images=sum(entry.images.values()),
                padded_sizes=tuple(sorted({pair[0] for pair in entry.images})),
                exits=tuple(_exit_costs(costs, depth) for depth in subject.exit_depths),
                gate_gflops=costs.gate,
                gate=None if subject.gate is None else _expected(subject.gate, costs),
            )
        )
    return ProfileSummary(
        architecture=subject.architecture.name,
        num_classes=subject.architecture.num_classes,
        convention=config.convention,
        exit_depths=subject.exit_depths,
        parameters=dict(count_parameters(subject.architecture)),
        inputs=tuple(inputs),
    )


def _exit_costs(costs: "ExitCosts", depth: int) -> ProfiledExit:
    return ProfiledExit(
        exit_depth=depth,
        backbone=costs.backbone,
        pixel_decoder=costs.pixel_decoder(depth),
        encoder=costs.encoder(depth),
        upsampling=costs.upsampling,
        transformer_decoder=costs.transformer_decoder,
        post_processing=costs.post_processing,
        total=costs.total(depth),
    )


def _scores_of(gate: Artifact[GateManifest]) -> GateMetrics:
    """What the gate chose on the images it was scored on.

    Raises:
        UsageError: It was scored on none: it was imported.
    """
    metrics = gate.manifest.metrics
    if metrics is None:
        raise UsageError(
            f"The gate {gate.digest} was imported: which exits it chooses on which images is not known, so there is no "
            "expected cost. Leave --gate out, or measure it with `eco eval`."
        )
    return metrics


def _expected(gate: Artifact[GateManifest], costs: "ExitCosts") -> ExpectedCost:
    """Cost under the exits that the gate chose on the images it was scored on."""
    metrics = _scores_of(gate)
    shares, depths = metrics.gate.exit_shares, gate.manifest.exit_depths
    pairs = list(zip(shares, depths, strict=True))
    return ExpectedCost(
        digest=gate.digest,
        beta=gate.manifest.beta,
        exit_depths=depths,
        exit_shares=shares,
        scored_on=metrics.scored_on,
        mean_depth=sum(share * depth for share, depth in pairs),
        pixel_decoder=sum(share * costs.pixel_decoder(depth) for share, depth in pairs),
        total=sum(share * costs.total(depth, gated=True) for share, depth in pairs),
    )


def _measured(
    config: ProfileModelConfig, subject: ProfiledModel, sizes: Sequence[InputSizes], runtime: Runtime
) -> Provenance:
    latencies: list[InputLatency] = []
    for entry in sizes:
        padded, original = _typical(config, subject, entry)
        runtime.log.info("Measuring %s: an input of %d x %d.", entry.label, *padded)
        latency = _latency(config, subject, padded, original, runtime)
        latencies.append(InputLatency(input=entry.label, **dict(latency)))
    ms_per_image = {f"exit {entry.exit_depth}": entry.total.median_ms for entry in latencies[0].exits}
    return Provenance(ms_per_image=ms_per_image, latency=tuple(latencies))


def _typical(config: ProfileModelConfig, subject: ProfiledModel, sizes: InputSizes) -> tuple[Size, Size]:
    """The sizes whose cost is nearest to the mean cost: times are measured on one size only."""
    from ecocli.profiling.gflops import count_gflops

    deepest = subject.exit_depths[-1]
    mean = _costs(config, subject, sizes).total(deepest)

    def distance(pair: tuple[Size, Size]) -> float:
        costs = count_gflops(subject.architecture, *pair, subject.exit_depths, convention=config.convention)
        return abs(costs.total(deepest) - mean)

    return min(sizes.images, key=distance)


def _latency(
    config: ProfileModelConfig, subject: ProfiledModel, padded: Size, original: Size, runtime: Runtime
) -> Latency:
    import torch

    from ecocli.inference.engines import EngineModel, open_engine
    from ecocli.model.contracts import ExitModel
    from ecocli.profiling.latency import measure_latency

    execution = config.execution
    model: ExitModel
    if config.graphs is not None:
        model = open_engine(Path(config.graphs.folder), config.graphs.engine, runtime.threads)
    else:
        network = model = _model(subject, runtime.device)
        if execution.compile:
            from ecocli.model.compiled import compile_backbone

            compile_backbone(network, runtime.log.warning)
    generator = torch.Generator().manual_seed(derive_seed(STAGE, "images"))
    images = torch.randn(execution.batch_size, 3, *padded, generator=generator).to(runtime.device)
    with runtime.stop.orderly():
        return measure_latency(
            model,
            images,
            subject.exit_depths,
            post_process=task_of(subject.architecture).timed_post_processing(subject.architecture, padded, original),
            repetitions=execution.repetitions,
            warm_up=execution.warm_up,
            dtype=model.precision if isinstance(model, EngineModel) else config.precision,
            engine="torch" if config.graphs is None else config.graphs.engine,
            should_stop=lambda: runtime.stop.requested,
        )


def _model(subject: ProfiledModel, device: str) -> "ExitNetwork":
    """The parent's weights, or drawn ones: times hardly depend on them."""
    import torch

    from ecocli.model.builders import build_model

    if subject.parent is not None:
        from ecocli.artifacts.tensors import load_tensors
        from ecocli.inference.loading import restore_model

        state = subject.parent.read(WEIGHTS_FILE, load_tensors)
        return restore_model(subject.architecture, state, device, subject.parent.digest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(STAGE, "weights"))
        return build_model(subject.architecture).eval().requires_grad_(False).to(device)
