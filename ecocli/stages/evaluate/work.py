"""The work of ``eval``: scores the data set, joins counts and costs, writes tables, times exits."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from ecocli.artifacts.action import Action, Made
from ecocli.artifacts.derived_table import read_split
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE
from ecocli.artifacts.manifest import EvaluationManifest, FileContents
from ecocli.artifacts.summaries import EvaluatedGate, EvaluationSummary, LeadSummary
from ecocli.artifacts.tables import ColumnDoc, document_columns, write_table
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.evaluate import EvaluateConfig
from ecocli.errors import InterruptedRunError
from ecocli.inference.loading import panoptic_rule, restore_gate, restore_model
from ecocli.metrics.assignment import CountTable
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.instance import TrueInstance
from ecocli.metrics.scorecard import GateLead, GateRun, ScoreRow, gate_lead, image_qualities, score_rows
from ecocli.profiling.gflops import count_gflops
from ecocli.runtime.context import Runtime
from ecocli.scoring.assemble import FurtherMetrics, count_table, further_metrics, row_summary, sum_view
from ecocli.scoring.batches import cut_batches, load_batch, plan_dataset
from ecocli.scoring.evaluation_tables import CLASS_COLUMNS, IMAGE_COLUMNS, class_table, image_table
from ecocli.scoring.instance_truth import read_instance_truth
from ecocli.scoring.part_scorer import ScoringOptions
from ecocli.scoring.predictions_file import pack_predictions
from ecocli.scoring.scored_dataset import ScoringTask, predicted_maps, score_dataset
from ecocli.scoring.scores import PartScores
from ecocli.scoring.timing import ROUNDS, time_choices
from ecocli.stages.evaluate.subject import EvaluationSubject


def evaluate(
    action: Action, config: EvaluateConfig, subject: EvaluationSubject, runtime: Runtime, folder: Path
) -> Made[EvaluationManifest] | None:
    """Score the data set; milliseconds are provenance."""
    # First of all: hours of scoring must not end at a damaged file.
    truth = read_instance_truth(subject.dataset) if "ap" in config.metrics else None
    task = _scoring_task(config, subject, runtime)
    scores = score_dataset(task, folder, runtime)
    if scores is None:
        return None
    summary, files = _report(config, subject, task, scores, truth, folder)
    timings: dict[str, JsonValue] = dict(_timings(config, task, runtime))
    return Made(EvaluationManifest(**action.recorded, summary=summary), files, {"ms_per_image": timings})


def _scoring_task(config: EvaluateConfig, subject: EvaluationSubject, runtime: Runtime) -> ScoringTask:
    """Load model and gate, and say what is to be scored."""

    parent, gate = subject.parent, subject.gate
    weights = load_tensors(parent.path_of(WEIGHTS_FILE))
    metrics_of_exits = config.every_exit or gate is None
    return ScoringTask(
        model=restore_model(
            subject.architecture,
            weights,
            runtime.device,
            parent.digest,
            config.precision,
            runtime.log.warning if config.execution.compile else None,
        ),
        gate=None
        if gate is None
        else restore_gate(
            load_tensors(gate.path_of(GATE_FILE)), gate.manifest, runtime.device, gate.digest, config.beta
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


def _exit_table(
    config: EvaluateConfig, subject: EvaluationSubject, task: ScoringTask, scores: PartScores
) -> ExitTable[CountTable]:
    """Join counts and costs at every fixed exit, from the run or from the derived table."""

    depths, K = task.exit_depths, len(task.rule.category_ids)
    if subject.derived is not None and task.gate is not None:
        table = read_split(subject.derived, config.split, task.gate.feature)
        # The table numbers only the classes that occur.
        assert isinstance(table.counts, CountTable)
        counts = replace(table.counts, num_classes=K)
        return ExitTable(depths, counts, table.gflops, table.encoder_gflops, config.bootstrap_replicates, config.seed)
    total, encoder = np.zeros((2, len(scores.positions), len(depths)))
    for image, (padded, original) in enumerate(
        zip(scores.padded_sizes.tolist(), scores.original_sizes.tolist(), strict=True)
    ):
        costs = count_gflops(subject.architecture, tuple(padded), tuple(original), depths)
        total[image] = [costs.total(depth) for depth in depths]
        encoder[image] = [costs.pixel_decoder(depth) for depth in depths]
    counts = count_table(scores.counts, range(len(depths)), len(scores.positions), K)
    return ExitTable(depths, counts, total, encoder, config.bootstrap_replicates, config.seed)


def _gate_run(subject: EvaluationSubject, task: ScoringTask, scores: PartScores) -> GateRun | None:
    """Collect what the gate did, and what it costs itself."""

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
    subject: EvaluationSubject,
    task: ScoringTask,
    scores: PartScores,
    truth: Sequence[Sequence[TrueInstance]] | None,
    folder: Path,
) -> tuple[EvaluationSummary, FileContents]:
    """Make the summary and the files."""

    table, gate = _exit_table(config, subject, task, scores), _gate_run(subject, task, scores)
    mirror = None
    if subject.mirror is not None and task.gate is not None:
        mirrored = read_split(subject.mirror, config.split, task.gate.feature).mirror
        mirror = None if mirrored is None else mirrored.counts.contributions()
    rows = score_rows(table, task.rule.is_thing, gate, mirror)
    options = task.options
    metrics = further_metrics(scores, rows, table, ap=options.instances, exits=options.exit_metrics, truth=truth)
    lead = None if gate is None else gate_lead(table, gate, mirror=mirror)
    files: dict[str, Path | bytes] = dict(_tables(subject, scores, table, rows, metrics, folder))
    if config.predictions:
        files["predictions.zip"] = pack_predictions(subject.dataset, scores, predicted_maps(task, folder), folder)
    return _summary(config, subject, table, rows, metrics, lead), files


def _tables(
    subject: EvaluationSubject,
    scores: PartScores,
    table: ExitTable[CountTable],
    rows: Sequence[ScoreRow],
    metrics: Mapping[str, FurtherMetrics],
    folder: Path,
) -> FileContents:

    files = {}
    for name, content, columns in (
        ("images", image_table(subject.dataset, scores, table, has_gate=subject.gate is not None), IMAGE_COLUMNS),
        ("classes", class_table(subject.dataset, rows, metrics), CLASS_COLUMNS),
    ):
        path = folder / f"{name}.parquet"
        write_table(path, document_columns(content, {key: ColumnDoc(*doc) for key, doc in columns.items()}))
        files[path.name] = path
    return files


def _timings(config: EvaluateConfig, task: ScoringTask, runtime: Runtime) -> Mapping[str, float]:

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
    choices = len(task.exit_depths) + (task.gate is not None)
    with runtime.progress.task("timing", choices * ROUNDS, unit="run") as progress:
        times = time_choices(
            task.model,
            task.gate,
            task.exit_depths,
            task.rule,
            batches,
            progress.advance,
            lambda: runtime.stop.requested,
        )
    if not times:
        raise InterruptedRunError(
            f"Stopped by {runtime.stop.reason} while timing; all images are scored and kept. The same command resumes "
            "from here."
        )
    return times


def _summary(
    config: EvaluateConfig,
    subject: EvaluationSubject,
    table: ExitTable[CountTable],
    rows: Sequence[ScoreRow],
    metrics: Mapping[str, FurtherMetrics],
    lead: GateLead | None,
) -> EvaluationSummary:

    undefined = int(np.isnan(image_qualities(table.counts)).all(axis=1).sum())
    gate, file = subject.gate, subject.dataset.instance_file
    return EvaluationSummary(
        dataset=subject.dataset.name,
        split=config.split,
        images=len(subject.dataset),
        undefined_images=undefined,
        ap_truth=(file.name if file is not None else "panoptic maps") if "ap" in config.metrics else None,
        exit_depths=table.exit_depths,
        gate=None
        if gate is None
        else EvaluatedGate(
            digest=gate.digest,
            beta=gate.manifest.beta if config.beta is None else config.beta,
            feature=gate.manifest.feature,
            exit_depths=gate.manifest.exit_depths,
        ),
        rows=tuple(row_summary(row, metrics[row.name]) for row in rows),
        gate_lead=None if lead is None else LeadSummary(**asdict(lead)),
    )
