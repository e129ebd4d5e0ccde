"""Evaluation of a parent and its gate beside their controls.

Inputs: ``parent``; ``gate``, optional; ``derived``, added here when only the gate is to be run: the table that the gate
was fitted on tells the fixed exits' counts, if it has this split. The summary holds the rows shown on screen. Files:
``images.parquet`` (PQ of each image at each exit, the gate's and the oracle's choice), ``classes.parquet`` (every row
by class), and ``predictions.zip`` (the gate's panoptic maps, else the deepest exit's, as panopticapi reads them).

Images are scored in parts that follow from the data set alone; processes share the parts, parts survive a kill, and
sums run in the order of the data set. So the numbers are the same for any number of processes. Milliseconds belong to
the machine and stand in the provenance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from ecocli.artifacts.action import Action, run_or_reuse
from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.digest import sha256_file
from ecocli.artifacts.manifest import DerivedManifest, FileContents, GateManifest, ParentManifest, ReportManifest
from ecocli.artifacts.store import Store
from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.evaluate import EvaluateConfig
from ecocli.config.loading import resolve_config
from ecocli.data.datasets import open_dataset
from ecocli.data.panoptic import PanopticDataset
from ecocli.errors import ArtifactError, DataError
from ecocli.runtime.context import Runtime

if TYPE_CHECKING:
    from ecocli.metrics.instance import TrueInstance
    from ecocli.metrics.scorecard import ExitTable, GateLead, GateRun, ScoreRow
    from ecocli.scoring.assemble import FurtherMetrics
    from ecocli.scoring.scored_dataset import ScoringTask
    from ecocli.scoring.scores import PartScores


STAGE = "eval"
SCHEMA_VERSION = 2
NAME = "evaluation"
"""A further name of every evaluation, since profiles are reports as well."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated on what, all of it opened and found to fit together."""

    parent: Artifact[ParentManifest]
    gate: Artifact[GateManifest] | None
    architecture: ArchitectureConfig
    dataset: PanopticDataset
    derived: Artifact[DerivedManifest] | None


def plan(config: EvaluateConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> tuple[Action, Subject]:
    """Open what is needed and say exactly what is asked.

    Raises:
        ArtifactError: An input is damaged, or the gate was fitted for another parent.
        DataError: The data set is missing, faulty, or of other categories than the parent.
        UsageError: There is no such data set.
    """
    parent = store.get(inputs["parent"], ParentManifest)
    gate = store.get(inputs["gate"], GateManifest) if "gate" in inputs else None
    if gate is not None:
        check_gate(store, gate, parent)
    dataset = open_dataset(config.dataset, config.split)
    _check_categories(parent, dataset)
    fingerprint = runtime.world.broadcast_object(dataset.fingerprint if runtime.world.is_main else "")
    derived = None if config.every_exit or gate is None else _find_derived(store, gate, config, fingerprint)
    roles = {**inputs, **({} if derived is None else {"derived": derived.digest})}
    fingerprints = {config.split: fingerprint}
    if dataset.instance_file is not None and "ap" in config.metrics:
        fingerprints[f"{config.split}-instances"] = sha256_file(dataset.instance_file)
    action = Action(STAGE, SCHEMA_VERSION, config, roles, fingerprints)
    architecture = resolve_config(ArchitectureConfig, parent.manifest.architecture)
    return action, Subject(parent, gate, architecture, dataset, derived)


def run(
    config: EvaluateConfig,
    inputs: Mapping[str, str],
    store: Store,
    runtime: Runtime,
    *,
    force: bool = False,
    names: Sequence[str] = (),
) -> Artifact[ReportManifest]:
    """Evaluate, go on with an interrupted evaluation, or return the one that is there.

    Args:
        config: The settings.
        inputs: Digests by role, see the module.
        store: Where the report goes.
        runtime: Where and with whom to run.
        force: Evaluate even if the store has the result.
        names: Names for the result, beside ``report`` and ``evaluation``.

    Raises:
        InterruptedRunError: A signal stopped the evaluation; finished parts are kept.
        ArtifactError: An input is damaged or does not fit.
        DataError: The data set is missing, faulty, or of other categories than the parent.
        UsageError: The settings do not fit together, or the store cannot be written.
    """
    action, subject = plan(config, inputs, store, runtime)
    provenance: dict[str, JsonValue] = {
        "device": runtime.device,
        "world_size": runtime.world.world_size,
        "threads": runtime.threads,
    }

    def work(folder: Path) -> tuple[ReportManifest, FileContents]:
        return _evaluate(action, config, subject, runtime, folder, provenance)

    return run_or_reuse(
        action,
        ReportManifest,
        store,
        work,
        force=force,
        names=[NAME, *names],
        provenance=provenance,
        world=runtime.world,
        stop=lambda: runtime.stop.requested,
    )


def check_gate(store: Store, gate: Artifact[GateManifest], parent: Artifact[ParentManifest]) -> None:
    """Make sure that a gate was fitted on a table derived from this parent.

    Raises:
        ArtifactError: It was not.
    """
    derived = gate.manifest.inputs.get("derived")
    origin = store.read_base(derived).inputs.get("parent") if derived is not None else None
    if origin != parent.digest:
        raise ArtifactError(
            f"The gate {gate.digest} was fitted for the parent {origin}, not for {parent.digest}. Name its own parent "
            "with --parent, fit a gate for this one, or evaluate without a gate (--no-gate)."
        )
    strange = sorted(set(gate.manifest.exit_depths) - set(parent.manifest.exit_depths))
    if strange:
        raise ArtifactError(
            f"The gate {gate.digest} chooses exits at depths {strange}, the parent has "
            f"{list(parent.manifest.exit_depths)}. Fit the gate again."
        )


def _evaluate(
    action: Action,
    config: EvaluateConfig,
    subject: Subject,
    runtime: Runtime,
    folder: Path,
    provenance: dict[str, JsonValue],
) -> tuple[ReportManifest, FileContents]:
    # torch is loaded only where something is computed; a result that is there is returned without it.
    from ecocli.scoring.instance_truth import read_instance_truth
    from ecocli.scoring.scored_dataset import score_dataset

    # First of all: hours of scoring must not end at a damaged file.
    truth = read_instance_truth(subject.dataset) if "ap" in config.metrics else None
    task = scoring_task(config, subject, runtime)
    scores = score_dataset(task, folder, runtime)
    if scores is None:
        return _manifest(action, {}), {}
    summary, files = _report(config, subject, task, scores, truth, folder)
    provenance["ms_per_image"] = dict(_timings(config, task, runtime))
    return _manifest(action, summary), files


def _manifest(action: Action, summary: dict[str, JsonValue]) -> ReportManifest:
    return ReportManifest(
        schema_version=action.schema_version,
        stage_config=action.stage_config,
        inputs=dict(action.inputs),
        dataset_fingerprints=dict(action.fingerprints),
        summary=summary,
    )


def scoring_task(config: EvaluateConfig, subject: Subject, runtime: Runtime) -> "ScoringTask":
    """Load model and gate, and say what is to be scored."""
    from ecocli.artifacts.tensors import load_tensors
    from ecocli.inference.loading import panoptic_rule, restore_gate, restore_model
    from ecocli.scoring.part_scorer import ScoringOptions
    from ecocli.scoring.scored_dataset import ScoringTask

    parent, gate = subject.parent, subject.gate
    weights = load_tensors(parent.path_of("model.safetensors"))
    metrics_of_exits = config.every_exit or gate is None
    return ScoringTask(
        model=restore_model(
            subject.architecture,
            weights,
            runtime.device,
            parent.digest,
            config.precision,
            runtime.log.warning if config.execution.compiled else None,
        ),
        gate=None
        if gate is None
        else restore_gate(
            load_tensors(gate.path_of("gate.safetensors")), gate.manifest, runtime.device, gate.digest, config.beta
        ),
        exit_depths=parent.manifest.exit_depths,
        rule=panoptic_rule(subject.architecture, [(c.id, c.is_thing) for c in subject.dataset.categories]),
        options=ScoringOptions(
            every_exit=subject.derived is None,
            exit_metrics=metrics_of_exits,
            semantic="miou" in config.metrics,
            instances="ap" in config.metrics,
            max_instances=config.max_instances,
        ),
        dataset=subject.dataset,
        resize=config.dataset.test_resize,
        batch_size=config.batch_size,
        part_images=config.execution.part_images,
        keep_predictions=config.predictions,
    )


def _exit_table(config: EvaluateConfig, subject: Subject, task: "ScoringTask", scores: "PartScores") -> "ExitTable":
    """Join counts and costs at every fixed exit, from the run or from the derived table."""
    import dataclasses

    import numpy as np

    from ecocli.metrics.scorecard import ExitTable
    from ecocli.profiling.gflops import count_gflops
    from ecocli.scoring.assemble import count_table

    depths, K = task.exit_depths, len(task.rule.category_ids)
    if subject.derived is not None and task.gate is not None:
        from ecocli.artifacts.derived_table import read_derived

        manifest, split = subject.derived.manifest, config.split
        path = subject.derived.path_of(f"{split}.parquet")
        rows = manifest.rows[split]
        table = read_derived(path, split=split, feature=task.gate.feature, exit_depths=depths, rows=rows)
        # The table numbers only the classes that occur.
        counts = dataclasses.replace(table.counts, num_classes=K)
        return ExitTable(depths, counts, table.gflops, table.encoder_gflops)
    total, encoder = np.zeros((2, len(scores.positions), len(depths)))
    for image, (padded, original) in enumerate(
        zip(scores.padded_sizes.tolist(), scores.original_sizes.tolist(), strict=True)
    ):
        costs = count_gflops(subject.architecture, tuple(padded), tuple(original), depths)
        total[image] = [costs.total(depth) for depth in depths]
        encoder[image] = [costs.pixel_decoder(depth) for depth in depths]
    return ExitTable(depths, count_table(scores.counts, range(len(depths)), len(scores.positions), K), total, encoder)


def _gate_run(subject: Subject, task: "ScoringTask", scores: "PartScores") -> "GateRun | None":
    """Collect what the gate did, and what it costs itself."""
    from ecocli.metrics.scorecard import GateRun
    from ecocli.profiling.gflops import count_gflops
    from ecocli.scoring.assemble import sum_view

    gate = task.gate
    if gate is None:
        return None
    # Its cost does not depend on the image.
    padded, original = scores.padded_sizes[0].tolist(), scores.original_sizes[0].tolist()
    costs = count_gflops(
        subject.architecture, tuple(padded), tuple(original), gate.exit_depths, gate_feature=gate.feature
    )
    counts = sum_view(scores, len(task.exit_depths), len(task.rule.category_ids))
    return GateRun(scores.gate_depths, counts, costs.gate)


def _report(
    config: EvaluateConfig,
    subject: Subject,
    task: "ScoringTask",
    scores: "PartScores",
    truth: "Sequence[Sequence[TrueInstance]] | None",
    folder: Path,
) -> tuple[dict[str, JsonValue], FileContents]:
    """Make the summary and the files."""
    from ecocli.metrics.scorecard import gate_lead, score_rows
    from ecocli.scoring.assemble import further_metrics
    from ecocli.scoring.predictions_file import pack_predictions

    table, gate = _exit_table(config, subject, task, scores), _gate_run(subject, task, scores)
    rows = score_rows(table, task.rule.is_thing, gate)
    options = task.options
    metrics = further_metrics(scores, rows, table, ap=options.instances, exits=options.exit_metrics, truth=truth)
    lead = None if gate is None else gate_lead(table, gate, config.bootstrap_replicates, config.seed)
    files: dict[str, Path | bytes] = dict(_tables(subject, scores, table, rows, metrics, folder))
    if config.predictions:
        files["predictions.zip"] = pack_predictions(subject.dataset, scores, folder)
    return _summary(config, subject, table, rows, metrics, lead), files


def _tables(
    subject: Subject,
    scores: "PartScores",
    table: "ExitTable",
    rows: Sequence["ScoreRow"],
    metrics: Mapping[str, "FurtherMetrics"],
    folder: Path,
) -> FileContents:
    from ecocli.artifacts.tables import ColumnDoc, document_columns, write_table
    from ecocli.scoring.evaluation_tables import CLASS_COLUMNS, IMAGE_COLUMNS, class_table, image_table

    files = {}
    for name, content, columns in (
        ("images", image_table(subject.dataset, scores, table, has_gate=subject.gate is not None), IMAGE_COLUMNS),
        ("classes", class_table(subject.dataset, rows, metrics), CLASS_COLUMNS),
    ):
        path = folder / f"{name}.parquet"
        write_table(path, document_columns(content, {key: ColumnDoc(*doc) for key, doc in columns.items()}))
        files[path.name] = path
    return files


def _timings(config: EvaluateConfig, task: "ScoringTask", runtime: Runtime) -> Mapping[str, float]:
    from ecocli.scoring.batches import cut_batches, load_batch, plan_dataset
    from ecocli.scoring.timing import time_choices

    wanted = config.execution.timed_images
    batches = []
    planned = plan_dataset(task.dataset, task.resize, task.batch_size)
    for positions in cut_batches(planned, task.dataset, task.resize, runtime.device):
        if wanted <= 0:
            break
        batches.append(load_batch(task.dataset, positions[:wanted], task.resize, task.model, runtime.device).images)
        wanted -= len(positions)
    if not batches:
        return {}
    runtime.log.info("Timing %d images at every exit.", sum(len(batch.image_ids) for batch in batches))
    return time_choices(task.model, task.gate, task.exit_depths, task.rule, batches)


def _summary(
    config: EvaluateConfig,
    subject: Subject,
    table: "ExitTable",
    rows: Sequence["ScoreRow"],
    metrics: Mapping[str, "FurtherMetrics"],
    lead: "GateLead | None",
) -> dict[str, JsonValue]:
    import numpy as np

    from ecocli.metrics.scorecard import image_qualities
    from ecocli.scoring.assemble import row_summary

    undefined = int(np.isnan(image_qualities(table.counts)).all(axis=1).sum())
    gate, file = subject.gate, subject.dataset.instance_file
    return {
        "type": "evaluation",
        "dataset": subject.dataset.name,
        "split": config.split,
        "images": len(subject.dataset),
        "undefined_images": undefined,
        "ap_truth": (file.name if file is not None else "panoptic maps") if "ap" in config.metrics else None,
        "exit_depths": list(table.exit_depths),
        "gate": None
        if gate is None
        else {
            "digest": gate.digest,
            "beta": gate.manifest.beta if config.beta is None else config.beta,
            "feature": gate.manifest.feature,
            "exit_depths": list(gate.manifest.exit_depths),
        },
        "rows": [row_summary(row, metrics[row.name]) for row in rows],
        "gate_lead": None if lead is None else {**asdict(lead), "mixture": list(lead.mixture)},
    }


def _find_derived(
    store: Store, gate: Artifact[GateManifest], config: EvaluateConfig, fingerprint: str
) -> Artifact[DerivedManifest] | None:
    """Return the gate's derived table if it measured these very images at this very size, in the same precision."""
    derived = store.get(gate.manifest.inputs["derived"], DerivedManifest)
    manifest = derived.manifest
    dataset = manifest.stage_config.get("dataset")
    resize = dataset.get("test_resize") if isinstance(dataset, Mapping) else None
    fits = (
        config.split in manifest.splits
        and manifest.dataset_fingerprints.get(config.split) == fingerprint
        and resize == config.dataset.test_resize.model_dump(mode="json")
        and manifest.stage_config.get("precision", "float32") == config.precision
    )
    return derived if fits else None


def _check_categories(parent: Artifact[ParentManifest], dataset: PanopticDataset) -> None:
    # Not their ids: Cityscapes has two sets of them, in the same order, and a parent knows ranks alone.
    trained = [entry["name"] for entry in parent.manifest.categories]
    found = [category.name for category in dataset.categories]
    if trained != found:
        raise DataError(
            f"The parent {parent.digest} knows {len(trained)} categories, the data set {dataset.name} has "
            f"{len(found)}, and they are not the same. Evaluate on the data set it was trained for (--dataset)."
        )
