"""Scores of a data set in one pass: every view's counts, confusion and instances, parts and their files."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_inference import EXIT_DEPTHS, RULE, own_truth, splitting_gate, tiny_dataset, tiny_model
from pycocotools import mask as coco_mask
from torch import Tensor

from ecocli.config.dataset import ResizeConfig
from ecocli.data.panoptic import PanopticDataset, RecordTable, decode_id_map
from ecocli.data.pictures import read_picture
from ecocli.errors import InterruptedRunError
from ecocli.inference.postprocess import instance_inference, semantic_map
from ecocli.inference.predictor import ExitGate, predict_exits, predict_gated
from ecocli.metrics.exit_table import ExitTable
from ecocli.metrics.instance import decode_masks
from ecocli.metrics.panoptic_quality import count_panoptic_image, image_pq, panoptic_quality, sum_counts
from ecocli.metrics.scorecard import GateRun, expected_counts, image_qualities, score_rows
from ecocli.metrics.semantic import count_confusion, semantic_truth
from ecocli.runtime.context import Runtime
from ecocli.scoring import part_scorer as scoring
from ecocli.scoring.assemble import count_table, further_metrics, sum_view
from ecocli.scoring.batches import LabelledBatch, load_batch
from ecocli.scoring.part_scorer import PanopticScoring, PartScorer, ScoringOptions
from ecocli.scoring.predictions_file import pack_predictions, unpack_predictions
from ecocli.scoring.score_exits import score_exits
from ecocli.scoring.scored_dataset import ScoringTask, predicted_maps, score_dataset
from ecocli.scoring.scores import PartScores, instance_images, load_scores, save_scores

KEEP = ResizeConfig()
IMAGES = 5
E, K = len(EXIT_DEPTHS), len(RULE.category_ids)


SCORING = PanopticScoring(RULE, ScoringOptions())


@dataclasses.dataclass(frozen=True)
class Scene:
    """A data set, a model and a gate that uses two exits on it."""

    dataset: PanopticDataset
    task: ScoringTask
    gate: ExitGate
    depths: list[int]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    dataset, model = tiny_dataset(tmp_path_factory.mktemp("data"), val=IMAGES), tiny_model()
    whole = load_batch(dataset, range(IMAGES), KEEP, model, "cpu")
    gate, depths = splitting_gate(model, [whole.images], EXIT_DEPTHS)
    task = ScoringTask(model, gate, EXIT_DEPTHS, True, dataset, KEEP, 2, 4, True)
    return Scene(dataset, task, gate, depths)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def scores(scene: Scene, run_folder: Path) -> PartScores:
    found = score_dataset(scene.task, SCORING, run_folder, Runtime.quiet())
    assert found is not None
    return found


def arrays_of(part: PartScores) -> list[np.ndarray]:
    groups = (part.counts, part.instances, part.segments)
    inner = [getattr(group, field.name) for group in groups for field in dataclasses.fields(group)]
    return [part.positions, part.original_sizes, part.padded_sizes, part.gate_depths, part.confusion, *inner]


def test_score_dataset__exits__holds_the_counts_of_derive_rows(scene: Scene, scores: PartScores) -> None:
    table = count_table(scores.counts, range(E), IMAGES, K)
    quality = image_qualities(table)
    for positions in ((0, 1), (2, 3), (4,)):
        batch = load_batch(scene.dataset, positions, KEEP, scene.task.model, "cpu")
        rows = score_exits(scene.task.model, batch.images, batch.truths, EXIT_DEPTHS, RULE)
        for position, row in zip(positions, rows, strict=True):
            assert quality[position].tolist() == [np.nan if pq is None else pq for pq in row.pq]
            for exit_index, counts in enumerate(row.counts):
                own = (table.image == position) & (table.exit_index == exit_index)
                assert table.fp[own].sum() == counts.fp.sum()
                assert table.fn[own].sum() == counts.fn.sum()


def test_score_dataset__gate__is_run_at_the_depths_it_chooses(scene: Scene, scores: PartScores) -> None:
    assert scores.gate_depths.tolist() == scene.depths
    counts = []
    confusion = np.zeros((K, K), np.int64)
    instances = 0
    for positions in ((0, 1), (2, 3), (4,)):
        batch = load_batch(scene.dataset, positions, KEEP, scene.task.model, "cpu")
        for prediction, truth in zip(
            predict_gated(scene.task.model, scene.gate, batch.images), batch.truths, strict=True
        ):
            found, segments = prediction.panoptic(RULE)
            counts.append(count_panoptic_image(found, segments, truth.panoptic_map, truth.segments, RULE.category_ids))
            raw = (prediction.pred_logits, prediction.pred_masks, prediction.geometry)
            true_classes = semantic_truth(truth.panoptic_map, truth.segments, RULE.category_ids)
            confusion += count_confusion(semantic_map(*raw).numpy(), true_classes, K)
            instances += len(instance_inference(*raw, RULE.is_thing).score)
    assert panoptic_quality(sum_view(scores, E, K)) == panoptic_quality(sum_counts(counts, K))
    assert scores.confusion[E].tolist() == confusion.tolist()
    assert (scores.instances.view == E).sum() == instances > 0


def coarse_classes(_logits: Tensor, masks: Tensor, _geometry: object) -> Tensor:
    """Stands for the semantic map: the strongest query of each cell, which differs between exits."""
    return masks.argmax(dim=0).repeat_interleave(4, 0).repeat_interleave(4, 1)


def test_part_scorer__oracle__counts_the_confusion_of_each_images_best_exit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "semantic_map", coarse_classes)
    # The truth of image b is its own prediction at exit index best[b], which is therefore its best exit.
    best = (2, 0, 1)
    batch = load_batch(scene.dataset, (0, 1, 2), KEEP, scene.task.model, "cpu")
    with torch.no_grad():
        features = scene.task.model.extract(batch.images.images)
        exits = list(predict_exits(scene.task.model, features, batch.images, EXIT_DEPTHS))
    predictions = [exits[best[b]][b] for b in range(3)]
    truths = tuple(own_truth(prediction) for prediction in predictions)
    scorer = PartScorer(scene.task.model, None, EXIT_DEPTHS, RULE, ScoringOptions(), None)
    scorer.add(LabelledBatch(batch.positions, batch.images, truths))
    expected = np.zeros((K, K), np.int64)
    for prediction, truth in zip(predictions, truths, strict=True):
        found = coarse_classes(prediction.pred_logits, prediction.pred_masks, None).numpy()
        expected += count_confusion(found, semantic_truth(truth.panoptic_map, truth.segments, RULE.category_ids), K)
    confusion = scorer.result().confusion
    assert confusion[E + 1].tolist() == expected.tolist()
    assert all(confusion[e].tolist() != expected.tolist() for e in range(E))
    assert not confusion[E].any()  # no gate


def test_score_dataset__two_processes__score_like_one(scene: Scene, scores: PartScores, tmp_path: Path) -> None:
    # Processes meet in the folder alone: what each one writes is what matters here.
    class Half:
        """Stands for one of two processes; both see the same folder."""

        def __init__(self, rank: int) -> None:
            self.rank, self.world_size, self.is_main = rank, 2, rank == 0

        def broadcast_object(self, obj: object) -> object:
            return [0, 1]  # the parts that are left

        def barrier(self) -> None:
            pass

        def any(self, flag: bool) -> bool:
            return flag

    from ecocli.scoring import scored_dataset

    quiet = Runtime.quiet()
    for rank in (1, 0):
        half = Half(rank)
        # Not a World: only its few methods are used.
        runtime = object.__new__(Runtime)
        for field in dataclasses.fields(Runtime):
            object.__setattr__(runtime, field.name, half if field.name == "world" else getattr(quiet, field.name))
        found = scored_dataset.score_dataset(scene.task, SCORING, tmp_path, runtime)
    assert found is not None
    assert len(list(tmp_path.glob("part-*"))) == 2
    for one, two in zip(arrays_of(scores), arrays_of(found), strict=True):
        assert np.array_equal(one, two)


def test_score_dataset__stopped_after_the_first_part__goes_on_without_scoring_it_again(
    scene: Scene, scores: PartScores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime.quiet()
    original = PartScorer.add

    def add_and_stop(self: PartScorer, batch: LabelledBatch) -> None:
        original(self, batch)
        if 3 in batch.positions:  # the last one of the first part
            runtime.stop.request("SIGTERM")

    monkeypatch.setattr(PartScorer, "add", add_and_stop)
    with pytest.raises(InterruptedRunError, match=r"Stopped by SIGTERM after 1 of 2 parts .* resumes from here"):
        score_dataset(scene.task, SCORING, tmp_path, runtime)
    scored: list[int] = []
    monkeypatch.setattr(
        PartScorer, "add", lambda self, batch: (scored.extend(batch.positions), original(self, batch))[1]
    )
    found = score_dataset(scene.task, SCORING, tmp_path, Runtime.quiet())
    assert found is not None
    assert scored == [4]
    for one, two in zip(arrays_of(scores), arrays_of(found), strict=True):
        assert np.array_equal(one, two)


def test_save_scores__and_load__keeps_every_array(scores: PartScores, tmp_path: Path) -> None:
    save_scores(tmp_path / "part.npz", scores)
    again = load_scores(tmp_path / "part.npz", PartScores)
    for one, two in zip(arrays_of(scores), arrays_of(again), strict=True):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)
    assert [path.name for path in tmp_path.iterdir()] == ["part.npz"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "gone", "swapped"])
@pytest.mark.parametrize("name", ["scores.npz", "0.png", "seal.json"])
def test_score_dataset__damaged_part__is_dropped_and_scored_again(
    scene: Scene,
    scores: PartScores,
    run_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
    name: str,
) -> None:
    shutil.copytree(run_folder, tmp_path, dirs_exist_ok=True)
    first, second = sorted(tmp_path.glob("part-*"))
    file = first / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "swapped":
        # A part that is intact in itself, in the place of another one.
        shutil.rmtree(first)
        shutil.copytree(second, first)
    else:
        flipped = bytes(content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]))
        flipped += bytes(content[len(flipped) :])
        file.write_bytes({"truncated": bytes(content[:-1]), "flipped": flipped, "emptied": b""}[damage])
    again = score_dataset(scene.task, SCORING, tmp_path, Runtime.quiet())
    assert again is not None
    assert f"The finished part {first} is damaged (" in caplog.text
    for one, two in zip(arrays_of(scores), arrays_of(again), strict=True):
        assert np.array_equal(one, two)


def test_part_scorer__metrics_off__keeps_counts_alone(scene: Scene) -> None:
    options = ScoringOptions(semantic=False, instances=False)
    scorer = PartScorer(scene.task.model, scene.gate, EXIT_DEPTHS, RULE, options, None)
    scorer.add(load_batch(scene.dataset, (0, 1), KEEP, scene.task.model, "cpu"))
    part = scorer.result()
    assert part.confusion.shape == (0, K, K)
    assert part.instances.position.size == part.segments.position.size == 0
    assert set(part.counts.view.tolist()) == set(range(E + 1))


def test_part_scorer__exit_metrics_off__keeps_further_metrics_of_the_gate_alone(scene: Scene) -> None:
    scorer = PartScorer(scene.task.model, scene.gate, EXIT_DEPTHS, RULE, ScoringOptions(exit_metrics=False), None)
    scorer.add(load_batch(scene.dataset, (0, 1), KEEP, scene.task.model, "cpu"))
    part = scorer.result()
    assert [bool(view.any()) for view in part.confusion] == [False] * E + [True, False]
    assert set(part.instances.view.tolist()) == {-1, E}


def test_further_metrics__known_confusion__gives_each_row_its_own_view(scene: Scene, scores: PartScores) -> None:
    # By hand: views 0 to 4 (three exits, gate, oracle) get 1, 2, 4, 3, 5 right of 8 pixels of class 0, the rest is
    # taken for class 1: the IoU of class 0 is the right ones over 8.
    right = np.array([1, 2, 4, 3, 5])
    confusion = np.zeros((E + 2, K, K), np.int64)
    confusion[:, 0, 0], confusion[:, 0, 1] = right, 8 - right
    known = dataclasses.replace(scores, confusion=confusion)
    costs = np.ones((IMAGES, E)) * np.array([1.0, 2.0, 3.0])
    counts = count_table(scores.counts, range(E), IMAGES, K)
    table = ExitTable(EXIT_DEPTHS, counts, image_qualities(counts), costs, costs)
    quality = panoptic_quality(sum_view(scores, E, K), RULE.is_thing)
    rows = score_rows(
        table,
        GateRun(scores.gate_depths, quality, quality.pq, 0.0),
        lambda weights: panoptic_quality(expected_counts(counts, weights), RULE.is_thing),
    )
    metrics = further_metrics(known, rows, table, rules="coco", ap=True, exits=True)
    found = {name: one.semantic.miou for name, one in metrics.items() if one.semantic is not None}
    # The gate of this scene takes exit 1 twice and exit 3 three times: (2 * 1 + 3 * 4) / 5 / 8 for the random control.
    assert scene.depths == [1, 3, 1, 3, 3]
    expected = {"exit 1": 1 / 8, "exit 2": 2 / 8, "exit 3": 4 / 8, "gate": 3 / 8, "random": 2.8 / 8, "oracle": 5 / 8}
    assert found == pytest.approx(expected)
    assert [name for name, one in metrics.items() if one.instance is None] == ["random"]
    only_gate = further_metrics(known, rows, table, rules="coco", ap=True, exits=False)
    assert only_gate["gate"] == metrics["gate"]
    assert only_gate["exit 1"].semantic is only_gate["random"].semantic is only_gate["oracle"].instance is None


def test_instance_images__view_per_image__takes_each_images_own(scores: PartScores) -> None:
    views = np.array([0, 1, 2, E, 0])
    found = instance_images(scores, views)
    entries = scores.instances
    for position, image in enumerate(found):
        own = (entries.position == position) & (entries.view == views[position])
        assert [one.score for one in image.predicted] == entries.score[own].tolist()
        assert len(image.true) == ((entries.position == position) & (entries.view == -1)).sum()
        areas = [coco_mask.area(one.mask) for one in image.true]
        assert all(0 < area < 64 * 64 for area in areas)
    assert sum(len(image.true) for image in found) > 0


def test_instance_images__void_kept__gives_the_unlabelled_pixels_of_each_image(scene: Scene, tmp_path: Path) -> None:
    scoring = PanopticScoring(RULE, ScoringOptions(exit_metrics=False, void=True))
    scores = score_dataset(scene.task, scoring, tmp_path, Runtime.quiet())
    assert scores is not None
    found = instance_images(scores, np.full(IMAGES, E))
    for record, image in zip(scene.dataset.records, found, strict=True):
        void = semantic_truth(scene.dataset.load_panoptic(record), record.segments, RULE.category_ids) == -1
        kept = np.zeros_like(void) if image.void is None else decode_masks([image.void], void.shape)[0]
        assert (kept == void).all()
        assert min(one.class_index for one in image.true) >= 0
    assert {image.void is None for image in found} == {True, False}


def test_pack_predictions__gate__gives_maps_and_segments_that_count_like_the_gate(scene: Scene, tmp_path: Path) -> None:
    scores = score_dataset(scene.task, SCORING, tmp_path, Runtime.quiet())
    assert scores is not None
    maps = predicted_maps(scene.task, tmp_path)
    archive = pack_predictions(scene.dataset, scores, maps, tmp_path)
    first_bytes = archive.read_bytes()
    json_path = unpack_predictions(
        pack_predictions(scene.dataset, scores, predicted_maps(scene.task, tmp_path), tmp_path), tmp_path / "out"
    )
    assert archive.read_bytes() == first_bytes
    entries = json.loads(json_path.read_text())["annotations"]
    assert [entry["image_id"] for entry in entries] == [int(r.image_id) for r in scene.dataset.records]
    counts = []
    for record, entry in zip(scene.dataset.records, entries, strict=True):
        found = decode_id_map(read_picture(json_path.parent / "panoptic_pred" / entry["file_name"], "panoptic PNG"))
        segments = [_Listed(s["id"], s["category_id"]) for s in entry["segments_info"]]
        assert {s["id"]: s["area"] for s in entry["segments_info"]} == {
            i: int((found == i).sum()) for i in np.unique(found[found > 0]).tolist()
        }
        counts.append(
            count_panoptic_image(
                found, segments, scene.dataset.load_panoptic(record), record.segments, RULE.category_ids
            )
        )
    assert panoptic_quality(sum_counts(counts, K)) == panoptic_quality(sum_view(scores, E, K))
    assert any(image_pq(c) is not None for c in counts)


def test_pack_predictions__maps_of_one_name_in_two_folders__stay_apart(scene: Scene, tmp_path: Path) -> None:
    scores = score_dataset(scene.task, SCORING, tmp_path, Runtime.quiet())
    assert scores is not None
    nested = [
        dataclasses.replace(record, panoptic_name=f"{record.image_id}/map.png") for record in scene.dataset.records
    ]
    dataset = dataclasses.replace(scene.dataset, records=RecordTable(nested))
    maps = predicted_maps(scene.task, tmp_path)
    json_path = unpack_predictions(pack_predictions(dataset, scores, maps, tmp_path), tmp_path / "out")
    entries = json.loads(json_path.read_text())["annotations"]
    for position, entry in enumerate(entries):
        assert (json_path.parent / "panoptic_pred" / entry["file_name"]).read_bytes() == maps[position].read_bytes()


@dataclasses.dataclass(frozen=True)
class _Listed:
    id: int
    category_id: int
