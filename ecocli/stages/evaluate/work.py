"""The work of ``eval``: scores the data set, joins results and costs, writes tables, times exits."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecocli.artifacts.action import Action, Made
from ecocli.artifacts.derived_table import read_split
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE
from ecocli.artifacts.manifest import EvaluationManifest, FileContents
from ecocli.artifacts.pricing import price_of
from ecocli.artifacts.provenance import Provenance
from ecocli.artifacts.summaries import EvaluatedGate, EvaluationRow, EvaluationSummary, LeadSummary
from ecocli.artifacts.tables import ColumnDoc, document_columns, write_table
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.evaluate import EvaluateConfig
from ecocli.errors import InterruptedRunError
from ecocli.inference.engines import EngineModel
from ecocli.inference.loading import restore_gate, restore_model
from ecocli.inference.opening import exported_model
from ecocli.inference.predictor import ExitGate
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.results import ResultTable
from ecocli.metrics.scorecard import GateLead, GateRun, gate_lead, score_rows
from ecocli.model.contracts import ExitModel
from ecocli.profiling.gflops import count_gflops
from ecocli.runtime.context import Runtime
from ecocli.scoring.batches import cut_batches, load_batch, plan_dataset
from ecocli.scoring.evaluation_tables import IMAGE_COLUMNS, image_table
from ecocli.scoring.scored_dataset import ScoringTask, score_dataset
from ecocli.scoring.scores import Scores
from ecocli.scoring.timing import MOST_SECONDS, ROUNDS, time_choices
from ecocli.stages.evaluate.subject import EvaluationSubject
from ecocli.tasks.task import TaskEvaluation


def evaluate(
    action: Action, config: EvaluateConfig, subject: EvaluationSubject, runtime: Runtime, folder: Path
) -> Made[EvaluationManifest] | None:
    """Score the data set; milliseconds are provenance."""
    evaluation = subject.task.evaluation(
        config, subject.dataset, subject.architecture, exit_metrics=config.every_exit or subject.gate is None
    )
    task = _scoring_task(config, subject, runtime)
    scores = score_dataset(task, evaluation.scoring, folder, runtime)
    if scores is None:
        return None
    table = _exit_table(config, subject, task, evaluation, scores)
    gate = _gate_run(subject, task, evaluation, scores)
    mirror = None
    if subject.mirror is not None and task.gate is not None:
        mirrored = read_split(subject.mirror, config.split, task.gate.feature).mirror
        mirror = None if mirrored is None else mirrored.counts.contributions()
    rows = score_rows(table, gate, evaluation.quality_of(table), mirror)
    lead = None if gate is None else gate_lead(table, gate, mirror=mirror)
    summaries, columns, classes = evaluation.summarise(scores, table, rows, has_gate=gate is not None)
    images = image_table(subject.dataset, table, None if gate is None else scores.gate_depths, columns)
    files = dict(_write_tables(evaluation, images, classes, folder))
    if config.predictions:
        files |= evaluation.predictions(scores, task, folder)
    summary = _summary(config, subject, table, summaries, lead, evaluation.ap_truth, task.model)
    timings = dict(_timings(config, task, evaluation, runtime))
    manifest = EvaluationManifest(**action.recorded, dataset=config.dataset, summary=summary)
    return Made(manifest, files, Provenance(ms_per_image=timings))


def _scoring_task(config: EvaluateConfig, subject: EvaluationSubject, runtime: Runtime) -> ScoringTask:
    """Load model and gate, and say what is to be scored."""
    model, gate = _model_and_gate(config, subject, runtime)
    return ScoringTask(
        model=model,
        gate=gate,
        exit_depths=subject.exit_depths,
        every_exit=subject.derived is None,
        dataset=subject.dataset,
        resize=config.dataset.test_resize,
        batch_size=config.batch_size,
        part_images=config.execution.part_images,
        keep_predictions=config.predictions,
    )


def _model_and_gate(
    config: EvaluateConfig, subject: EvaluationSubject, runtime: Runtime
) -> tuple[ExitModel, ExitGate | None]:
    parent, gate = subject.parent, subject.gate
    if config.graphs is not None:
        graphs = exported_model(Path(config.graphs.folder), None, config.beta, engine=config.graphs.engine)
        opened = graphs(runtime.threads)
        return opened.model, None if gate is None else opened.gate
    model = restore_model(
        subject.architecture,
        parent.read(WEIGHTS_FILE, load_tensors),
        runtime.device,
        parent.digest,
        config.precision,
        runtime.log.warning if config.execution.compile else None,
    )
    if gate is None:
        return model, None
    state = gate.read(GATE_FILE, load_tensors)
    return model, restore_gate(state, gate.manifest, runtime.device, gate.digest, config.beta)


def _exit_table(
    config: EvaluateConfig, subject: EvaluationSubject, task: ScoringTask, evaluation: TaskEvaluation, scores: Scores
) -> ExitTable[ResultTable]:
    """Join results and costs at every fixed exit, from the run or from the derived table."""
    depths = task.exit_depths
    if subject.derived is not None and task.gate is not None:
        table = read_split(subject.derived, config.split, task.gate.feature)
        counts = evaluation.with_all_classes(table.counts)
        drawn = config.bootstrap_replicates, config.seed
        return ExitTable(depths, counts, table.quality, table.gflops, table.encoder_gflops, *drawn)
    total, encoder = np.zeros((2, len(scores.positions), len(depths)))
    for image, (padded, original) in enumerate(
        zip(scores.padded_sizes.tolist(), scores.original_sizes.tolist(), strict=True)
    ):
        costs = count_gflops(subject.architecture, tuple(padded), tuple(original), depths)
        total[image] = [costs.total(depth) for depth in depths]
        encoder[image] = [costs.pixel_decoder(depth) for depth in depths]
    counts, quality = evaluation.results(scores, len(depths))
    return ExitTable(depths, counts, quality, total, encoder, config.bootstrap_replicates, config.seed)


def _gate_run(
    subject: EvaluationSubject, task: ScoringTask, evaluation: TaskEvaluation, scores: Scores
) -> GateRun[Any] | None:
    """Collect what the gate did, and what it costs itself."""
    gate = task.gate
    if gate is None:
        return None
    # Its cost does not depend on the image.
    padded, original = scores.padded_sizes[0].tolist(), scores.original_sizes[0].tolist()
    costs = count_gflops(
        subject.architecture, tuple(padded), tuple(original), gate.exit_depths, gate_feature=gate.feature
    )
    quality, value = evaluation.gate_quality(scores, len(task.exit_depths))
    return GateRun(scores.gate_depths, quality, value, costs.gate)


def _write_tables(evaluation: TaskEvaluation, images: pa.Table, classes: pa.Table, folder: Path) -> FileContents:
    common = {name: ColumnDoc(*doc) for name, doc in IMAGE_COLUMNS.items()}
    files = {}
    for name, content, docs in (
        ("images", images, {**common, **evaluation.image_docs}),
        ("classes", classes, evaluation.class_docs),
    ):
        path = folder / f"{name}.parquet"
        write_table(path, document_columns(content, docs))
        files[path.name] = path
    return files


def _timings(
    config: EvaluateConfig, task: ScoringTask, evaluation: TaskEvaluation, runtime: Runtime
) -> Mapping[str, float]:
    wanted = config.execution.timed_images
    batches = []
    planned = plan_dataset(task.dataset, task.resize, task.batch_size, task.model.size_divisor)
    for positions in cut_batches(planned, task.dataset, task.resize, runtime.device):
        if wanted <= 0:
            break
        truth = evaluation.scoring.truth
        some = load_batch(task.dataset, positions[:wanted], task.resize, task.model, runtime.device, truth)
        batches.append(some.images)
        wanted -= len(positions)
    if not batches:
        return {}
    runtime.log.info("Timing %d images at every exit.", sum(len(batch.image_ids) for batch in batches))
    choices = len(task.exit_depths) + (task.gate is not None)
    with runtime.stop.orderly(), runtime.progress.task("timing", choices * ROUNDS, unit="run") as progress:
        times = time_choices(
            task.model,
            task.gate,
            task.exit_depths,
            evaluation.post_process,
            batches,
            progress.advance,
            lambda rounds: runtime.log.info(
                "Timing ends after %d of %d rounds, to take no more than about %.0f s. Fewer images (--timed-images) "
                "leave time for all.",
                *(rounds, ROUNDS, MOST_SECONDS),
            ),
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
    table: ExitTable[ResultTable],
    rows: Sequence[EvaluationRow],
    lead: GateLead | None,
    ap_truth: str | None,
    model: ExitModel,
) -> EvaluationSummary:
    gate = subject.gate
    return EvaluationSummary(
        task=subject.task.name,
        dataset=subject.dataset.name,
        split=config.split,
        images=len(subject.dataset),
        undefined_images=int(np.isnan(table.quality).all(axis=1).sum()),
        ap_truth=ap_truth,
        rules=config.rules,
        exit_depths=table.exit_depths,
        gate=None
        if gate is None
        else EvaluatedGate(
            digest=gate.digest,
            beta=price_of(gate.manifest, config.beta),
            feature=gate.manifest.feature,
            exit_depths=gate.manifest.exit_depths,
        ),
        rows=tuple(rows),
        gate_lead=None if lead is None else LeadSummary(**asdict(lead)),
        engine="torch" if config.graphs is None else config.graphs.engine,
        precision=model.precision if isinstance(model, EngineModel) else config.precision,
    )
