"""A folder with one HTML page about an evaluation: trade-off plot, exit histogram, example overlays, tables.

Input: ``evaluation``. Nothing goes into the store. The network runs once more on the few example images, at
the shallowest and the deepest exit and at the gate's; everything else is read from the store.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import GATE_FILE, WEIGHTS_FILE
from ecocli.artifacts.listing import made_from
from ecocli.artifacts.manifest import DerivedManifest, EvaluationManifest, GateManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.summaries import EvaluationRow, EvaluationSummary
from ecocli.config.dataset import DatasetConfig, ResizeConfig
from ecocli.config.precision import InferencePrecision
from ecocli.config.report import ReportConfig
from ecocli.errors import DataError
from ecocli.runtime.context import Runtime
from ecocli.runtime.files import check_output, open_output, user_path, write_bytes
from ecocli.tasks.registry import task_named, task_of
from ecocli.tasks.task import TaskPictures

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from PIL import Image

    from ecocli.data.images import ImageDataset
    from ecocli.inference.predictor import ExitGate
    from ecocli.metrics.exit_table import ExitTable
    from ecocli.metrics.results import ResultTable
    from ecocli.model.contracts import ExitModel
    from ecocli.reports.evaluation_page import ClassScore
    from ecocli.reports.evaluation_page import Example as ShownExample
    from ecocli.reports.examples import Example as PickedExample
    from ecocli.reports.plots import Tradeoff, TradeoffPoint

STAGE = "report"
_ANOTHER_FOLDER = "name another folder with --out"


@dataclass(frozen=True)
class ReportPage:
    """What was written.

    Attributes:
        index: The page; its pictures are embedded.
    """

    index: Path
    pictures: tuple[Path, ...]


def run(config: ReportConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> ReportPage:
    """Write the page.

    Args:
        inputs: Digest of the ``evaluation``.

    Raises:
        ArtifactError: The evaluation or something it was made from is missing or damaged.
        DataError: The data of the examples are missing or faulty.
        UsageError: The folder cannot be written.
    """
    from ecocli.artifacts.tables import read_table
    from ecocli.reports.evaluation_page import PageContent, build_page
    from ecocli.reports.plots import draw_exit_histogram, draw_tradeoff
    from ecocli.scoring.evaluation_tables import read_exit_table

    check_output(user_path(config.out), _ANOTHER_FOLDER)
    evaluation = store.get(inputs["evaluation"], EvaluationManifest)
    summary = evaluation.manifest.summary
    if not runtime.world.is_main:
        # There is little to do, and one page to write.
        return ReportPage(user_path(config.out) / "index.html", ())
    task = task_named(summary.task)

    def read_classes(path: Path) -> "tuple[list[ClassScore], int]":
        classes = read_table(path)
        return _class_scores(classes, summary, task.class_quality), len(set(classes["category_id"].to_pylist()))

    scores, num_classes = evaluation.read("classes.parquet", read_classes)

    def read_images(path: Path) -> "tuple[pa.Table, ExitTable[ResultTable]]":
        images = read_table(path)
        counts = task.read_results(images, len(summary.exit_depths), num_classes)
        return images, read_exit_table(images, summary.exit_depths, counts, task.image_quality)

    images, table = evaluation.read("images.parquet", read_images)
    rows = summary.by_name
    gate_shares = rows["gate"].exit_shares if "gate" in rows else None
    plotted = _tradeoff(store, evaluation, table)
    tradeoff = draw_tradeoff(plotted), draw_tradeoff(plotted, narrow=True)
    shares = (_title(summary), summary.exit_depths, rows["oracle"].exit_shares, gate_shares)
    histogram = draw_exit_histogram(*shares), draw_exit_histogram(*shares, narrow=True)
    pictures = {"tradeoff.png": tradeoff[0], "exits.png": histogram[0]}
    examples = _examples(config, evaluation, store, runtime, images, table.quality)
    for number, example in enumerate(examples, start=1):
        pictures[f"example-{number}.png"] = example.sheet
    page = build_page(
        PageContent(
            summary=summary,
            ms_per_image=store.read_provenance(evaluation.digest).ms_per_image,
            tradeoff=tradeoff,
            histogram=histogram,
            examples=examples,
            classes=scores,
            origins=[("evaluation", evaluation.digest), *sorted(evaluation.manifest.inputs.items())],
        )
    )
    return _write(user_path(config.out), page, pictures)


def _title(summary: EvaluationSummary) -> str:
    return f"{summary.dataset}, {summary.split}: {summary.images} images"


def _write(out: Path, page: str, pictures: Mapping[str, bytes]) -> ReportPage:
    open_output(out, _ANOTHER_FOLDER)
    for name, content in {**pictures, "index.html": page.encode()}.items():
        write_bytes(out / name, content, out, otherwise=_ANOTHER_FOLDER)
    return ReportPage(out / "index.html", tuple(out / name for name in pictures))


def _tradeoff(store: Store, evaluation: Artifact[EvaluationManifest], table: "ExitTable[ResultTable]") -> "Tradeoff":
    from ecocli.metrics.tradeoff import blend_curve, oracle_curve
    from ecocli.reports.plots import Tradeoff, TradeoffPoint

    def point(label: str, row: EvaluationRow) -> TradeoffPoint:
        return TradeoffPoint(label, row.gflops, summary.quality(row) or 0.0)

    summary = evaluation.manifest.summary
    rows, lead = summary.by_name, summary.gate_lead
    fixed = [point(f"exit {depth}", rows[f"exit {depth}"]) for depth in summary.exit_depths]
    gate = None if summary.gate is None else point(f"gate, β {summary.gate.beta:g}", rows["gate"])
    interval = None
    if gate is not None and lead is not None:
        interval = (gate.pq + lead.low - lead.lead, gate.pq + lead.high - lead.lead)
    return Tradeoff(
        title=_title(summary),
        measure=summary.measure,
        fixed=fixed,
        blends=[TradeoffPoint("", one.gflops, one.pq) for one in blend_curve(table)],
        gates=_other_gates(store, evaluation, table),
        evaluated=gate,
        pq_interval=interval,
        attainable=_attainable(store, evaluation, table),
        oracles=[TradeoffPoint("", one.gflops, one.pq) for one in oracle_curve(table)],
    )


def _attainable(
    store: Store, evaluation: Artifact[EvaluationManifest], table: "ExitTable[ResultTable]"
) -> "list[TradeoffPoint]":
    """Follow what is attainable, where the evaluation knew the mirror images."""
    from ecocli.artifacts.derived_table import read_split
    from ecocli.metrics.tradeoff import attainable_curve
    from ecocli.reports.plots import TradeoffPoint

    digest = evaluation.manifest.inputs.get("mirror")
    if digest is None:
        return []
    derived = store.get(digest, DerivedManifest)
    feature = next(iter(derived.manifest.feature_sizes))
    mirror = read_split(derived, evaluation.manifest.summary.split, feature).mirror
    if mirror is None:
        return []
    points = attainable_curve(table, mirror.counts.contributions())
    return [TradeoffPoint("", one.gflops, one.pq) for one in points]


def _other_gates(
    store: Store, evaluation: Artifact[EvaluationManifest], table: "ExitTable[ResultTable]"
) -> "list[TradeoffPoint]":
    """Place the store's other gates of the same derived table, by arithmetic on that table.

    A gate with a quality head is drawn at other prices as well, since its price can be changed after fitting.
    """
    from ecocli.artifacts.derived_table import read_split
    from ecocli.gates.placed import placed_choice
    from ecocli.metrics.tradeoff import PRICES, place_choice
    from ecocli.reports.plots import TradeoffPoint

    digest = evaluation.manifest.inputs.get("gate")
    if digest is None:
        return []
    table_digest = store.get(digest, GateManifest).manifest.inputs.get("derived")
    if table_digest is None:  # imported, with its parent alone
        return []
    derived = store.get(table_digest, DerivedManifest)
    split = evaluation.manifest.summary.split
    same_images = derived.manifest.dataset_fingerprints.get(split) in evaluation.manifest.dataset_fingerprints.values()
    if split not in derived.manifest.splits or not same_images:
        return []
    points: dict[tuple[float, float], str] = {}
    for other in made_from(store, "gate", "derived", derived.digest):
        gate = store.get(other, GateManifest)
        images = read_split(derived, split, gate.manifest.feature)
        betas = sorted({*PRICES, gate.manifest.beta}) if gate.manifest.head == "quality" else [gate.manifest.beta]
        for beta in betas:
            if gate.digest != digest or beta != gate.manifest.beta:
                place = place_choice(table, placed_choice(gate, table, images, beta))
                points.setdefault((place.gflops, place.pq), f"β {beta:g}")
    return [TradeoffPoint(label, gflops, pq) for (gflops, pq), label in sorted(points.items())]


def _class_scores(classes: "pa.Table", summary: EvaluationSummary, quality: str) -> "list[ClassScore]":
    """Arrange quality by class: the shallowest and the deepest exit, the gate if there is one, the oracle."""
    from ecocli.reports.evaluation_page import ClassScore

    depths = summary.exit_depths
    wanted = list(dict.fromkeys([f"exit {depths[0]}", f"exit {depths[-1]}", "gate", "oracle"]))
    scores: dict[int, ClassScore] = {}
    for entry in classes.to_pylist():
        if entry["row"] not in wanted:
            continue
        kind = "thing" if entry.get("is_thing", True) else "stuff"
        one = scores.setdefault(entry["category_id"], ClassScore(entry["name"], kind, {}))
        scores[entry["category_id"]] = ClassScore(one.name, kind, {**one.by_row, entry["row"]: entry[quality]})
    return list(scores.values())


def _examples(
    config: ReportConfig,
    evaluation: Artifact[EvaluationManifest],
    store: Store,
    runtime: Runtime,
    images: "pa.Table",
    quality: "np.ndarray",
) -> "list[ShownExample]":
    """Run the network on a few telling images and draw what it sees."""
    import numpy as np

    from ecocli.reports.examples import pick_examples

    gate_quality = None
    if "gate" in evaluation.manifest.inputs:
        column = f"gate_{task_named(evaluation.manifest.summary.task).image_quality}"
        gate_quality = np.array(images[column].to_pylist(), np.float64)
    chosen = pick_examples(quality, gate_quality, config.examples)
    if not chosen:
        return []
    dataset = evaluation.manifest.dataset.model_copy(update={"root": config.data_root})
    scene = _load_scene(dataset, evaluation, store, runtime)
    return [_draw_example(scene, one) for one in chosen]


@dataclass(frozen=True)
class _Scene:
    """What the examples are made with."""

    model: "ExitModel"
    gate: "ExitGate | None"
    exit_depths: tuple[int, ...]
    pictures: TaskPictures
    dataset: "ImageDataset"
    resize: ResizeConfig
    device: str


def _load_scene(
    data: DatasetConfig, evaluation: Artifact[EvaluationManifest], store: Store, runtime: Runtime
) -> _Scene:
    from ecocli.artifacts.tensors import load_tensors
    from ecocli.inference.loading import restore_gate, restore_model

    summary = evaluation.manifest.summary
    parent = store.get(evaluation.manifest.inputs["parent"], ParentManifest)
    architecture = parent.manifest.architecture
    task = task_of(architecture)
    # The modules have no int8; what an engine's graphs in it saw is near to what they see in float32.
    precision: InferencePrecision = "float32" if summary.precision == "int8" else summary.precision
    weights = parent.read(WEIGHTS_FILE, load_tensors)
    gate = None
    if summary.gate is not None:
        fitted = store.get(summary.gate.digest, GateManifest)
        state = fitted.read(GATE_FILE, load_tensors)
        gate = restore_gate(state, fitted.manifest, runtime.device, fitted.digest, summary.gate.beta)
    dataset = task.open(data, summary.split)
    expected = evaluation.manifest.dataset_fingerprints[summary.split]
    if dataset.fingerprint != expected:
        raise DataError(
            f"The {summary.split} split of {dataset.name} in {dataset.image_root} has the fingerprint "
            f"{dataset.fingerprint}, the evaluation was made on {expected}. Name the folder of those data with "
            "--data-root, or leave the examples out with --examples 0."
        )
    return _Scene(
        model=restore_model(architecture, weights, runtime.device, parent.digest, precision),
        gate=gate,
        exit_depths=parent.manifest.exit_depths,
        pictures=task.pictures(architecture, dataset.categories),
        dataset=dataset,
        resize=data.test_resize,
        device=runtime.device,
    )


def _draw_example(scene: _Scene, example: "PickedExample") -> "ShownExample":
    """Draw image, truth, shallowest exit, deepest exit and the gate's result side by side."""
    import torch

    from ecocli.inference.predictor import predict_exits, predict_gated
    from ecocli.reports.evaluation_page import Example as ShownExample
    from ecocli.reports.overlays import drawing_scale, enlarge
    from ecocli.reports.page import Panel as PagePanel
    from ecocli.reports.sheet import Panel, draw_sheet
    from ecocli.scoring.batches import load_batch

    dataset, record, pictures = scene.dataset, scene.dataset.records[example.position], scene.pictures
    batch = load_batch(dataset, (example.position,), scene.resize, scene.model, scene.device, pictures.load_truth)
    image, truth = dataset.load_image(record), batch.truths[0]
    scale = drawing_scale(record.height, record.width)
    panels = [
        Panel(enlarge(image, scale), f"image {record.image_id}", f"{record.width} x {record.height}"),
        Panel(*pictures.draw_truth(image, truth, scale)),
    ]
    shown = tuple(dict.fromkeys((scene.exit_depths[0], scene.exit_depths[-1])))
    with torch.no_grad():
        features = scene.model.extract(batch.images.images, batch.images.image_sizes)
        predictions = [one for (one,) in predict_exits(scene.model, features, batch.images, shown)]
    titles = [f"exit {depth}" for depth in shown]
    if scene.gate is not None:
        predictions += predict_gated(scene.model, scene.gate, batch.images)
        titles.append(f"gate: exit {predictions[-1].exit_depth}")
    for title, prediction in zip(titles, predictions, strict=True):
        overlay, note = pictures.draw_prediction(image, prediction, truth, scale)
        panels.append(Panel(overlay, title, note))
    shown_panels = [PagePanel(_png(panel.picture), panel.title, panel.note) for panel in panels]
    return ShownExample(_png(draw_sheet([panels])), shown_panels, f"Image {record.image_id}: {example.reason}.")


def _png(picture: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
