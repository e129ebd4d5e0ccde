"""One pass over labelled test images: every metric of every fixed exit, of the gate and of the oracle.

Axes: B images of a batch, V views, K classes. Views are the fixed exits in ascending depth, then the gate. The gate is
really run: its images leave the encoder at their own depth. The oracle needs no run: it is, image by image, the exit
with the best PQ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ecocli.data.panoptic import ImageRecord, PanopticDataset, encode_id_map
from ecocli.inference.postprocess import PanopticRule, instance_inference, semantic_map
from ecocli.inference.predictor import ExitGate, ImagePrediction, predict_gated
from ecocli.metrics.assignment import oracle_assignment
from ecocli.metrics.instance import Rle, encode_masks, true_instances
from ecocli.metrics.panoptic_quality import ImageCounts
from ecocli.metrics.semantic import IGNORED, count_confusion, semantic_truth
from ecocli.model.contracts import ExitModel
from ecocli.scoring.batches import LabelledBatch, TruePanoptic, panoptic_truth
from ecocli.scoring.score_exits import ScoredPrediction, score_exits, score_prediction
from ecocli.scoring.scored_dataset import ScoringTask
from ecocli.scoring.scores import TRUTH_VIEW, CountEntries, InstanceEntries, PartScores, SegmentEntries, merge_parts


@dataclass(frozen=True)
class ScoringOptions:
    """What to score.

    Attributes:
        exit_metrics: Score the fixed exits by more than PQ.
        semantic: Count semantic confusion for mIoU.
        instances: Keep instances for AP.
        max_instances: Instances kept per image and view.
        void: Keep the unlabelled pixels beside the true instances.
    """

    exit_metrics: bool = True
    semantic: bool = True
    instances: bool = True
    max_instances: int = 100
    void: bool = False


class PartScorer:
    """Scores batches one after the other and keeps what an evaluation needs of them."""

    def __init__(
        self,
        model: ExitModel,
        gate: ExitGate | None,
        exit_depths: Sequence[int],
        rule: PanopticRule,
        options: ScoringOptions,
        png_folder: Path | None,
        every_exit: bool = True,
    ) -> None:
        """Prepare an empty part.

        Args:
            model: In evaluation mode.
            exit_depths: The fixed exits, ascending, in encoder layers run.
            png_folder: Where predicted maps go as ``<position>.png``: the gate's, else the deepest exit's; or None.
            every_exit: Run every fixed exit, not the gate alone.
        """
        self._model, self._gate, self._rule, self._options = model, gate, rule, options
        self._exit_depths = tuple(exit_depths)
        self._png_folder, self._every_exit = png_folder, every_exit
        E, K = len(self._exit_depths), len(rule.category_ids)
        self._gate_view, self._oracle_view = E, E + 1
        self._confusion = np.zeros((E + 2 if options.semantic else 0, K, K), np.int64)
        self._images: list[tuple[int, ...]] = []
        self._counts: list[tuple[int, int, ImageCounts]] = []
        self._instances: list[tuple[int, int, int, float, Rle]] = []
        self._segments: list[tuple[int, int, int, int]] = []

    def add(self, batch: LabelledBatch) -> None:
        """Predict and score one batch.

        Raises:
            DataError: A ground truth contradicts itself.
        """
        truths = [_Truth(truth, self._rule, self._options) for truth in batch.truths]
        for position, truth in zip(batch.positions, truths, strict=True):
            self._instances += [(position, TRUTH_VIEW, *entry) for entry in truth.instances]
        if self._every_exit:
            self._score_exits(batch, truths)
        depths = [0] * len(truths)
        if self._gate is not None:
            for b, prediction in enumerate(predict_gated(self._model, self._gate, batch.images)):
                scored = score_prediction(prediction, batch.truths[b], self._rule)
                confusion = self._keep(batch.positions[b], self._gate_view, scored, truths[b])
                self._add_confusion(self._gate_view, confusion)
                self._write(batch.positions[b], scored)
                depths[b] = prediction.exit_depth
        padded = tuple(batch.images.images.shape[-2:])
        for position, original, depth in zip(batch.positions, batch.images.original_sizes, depths, strict=True):
            self._images.append((position, *original, *padded, depth))

    def result(self) -> PartScores:
        """Return the scores of all batches added."""
        images = np.array(self._images, np.int64).reshape(-1, 6)
        segments = np.array(self._segments, np.int64).reshape(-1, 4)
        return PartScores(
            positions=images[:, 0],
            original_sizes=images[:, 1:3],
            padded_sizes=images[:, 3:5],
            gate_depths=images[:, 5],
            counts=_count_entries(self._counts),
            confusion=self._confusion,
            instances=_instance_entries(self._instances),
            segments=SegmentEntries(*segments.T),
        )

    def _score_exits(self, batch: LabelledBatch, truths: "Sequence[_Truth]") -> None:
        confusions: list[list[Int64[np.ndarray, "K K"] | None]] = [[] for _ in truths]

        def observe(b: int, exit_index: int, scored: ScoredPrediction) -> None:
            confusions[b].append(self._keep(batch.positions[b], exit_index, scored, truths[b]))
            if self._gate is None and exit_index == len(self._exit_depths) - 1:
                self._write(batch.positions[b], scored)

        rows = score_exits(self._model, batch.images, batch.truths, self._exit_depths, self._rule, observe)
        for b, row in enumerate(rows):
            quality = np.array([[np.nan if pq is None else pq for pq in row.pq]])
            best = int(oracle_assignment(quality)[0])
            for exit_index, confusion in enumerate(confusions[b]):
                self._add_confusion(exit_index, confusion)
            self._add_confusion(self._oracle_view, confusions[b][best])

    def _add_confusion(self, view: int, confusion: Int64[np.ndarray, "K K"] | None) -> None:
        if confusion is not None:
            self._confusion[view] += confusion

    def _keep(
        self, position: int, view: int, scored: ScoredPrediction, truth: "_Truth"
    ) -> Int64[np.ndarray, "K K"] | None:
        """Keep counts and instances of one prediction; return its confusion, None where not wanted."""
        self._counts.append((position, view, scored.counts))
        prediction, options = scored.prediction, self._options
        if view < self._gate_view and not options.exit_metrics:
            return None
        if options.instances:
            entries = _instances(prediction, self._rule, options.max_instances)
            self._instances += [(position, view, *entry) for entry in entries]
        if not options.semantic:
            return None
        classes = semantic_map(prediction.pred_logits, prediction.pred_masks, prediction.geometry)
        return count_confusion(classes.cpu().numpy(), truth.classes, len(self._rule.category_ids))

    def _write(self, position: int, scored: ScoredPrediction) -> None:
        if self._png_folder is None:
            return
        encode_id_map(scored.panoptic_map).save(self._png_folder / f"{position}.png", format="PNG")
        self._segments += [(position, s.id, s.category_id, s.area) for s in scored.segments]


@dataclass(frozen=True)
class PanopticScoring:
    """Scores panoptic maps."""

    rule: PanopticRule
    options: ScoringOptions

    @property
    def kind(self) -> type[PartScores]:
        """Counts, confusion, instances and segments."""
        return PartScores

    def truth(self, dataset: PanopticDataset, record: ImageRecord) -> TruePanoptic:
        """Decode the panoptic map of an image."""
        return panoptic_truth(dataset, record)

    def scorer(self, task: ScoringTask, picture_folder: Path | None) -> PartScorer:
        """Begin a part."""
        return PartScorer(
            task.model, task.gate, task.exit_depths, self.rule, self.options, picture_folder, task.every_exit
        )

    def merge(self, parts: Sequence[PartScores]) -> PartScores:
        """Join parts in the order of the data set."""
        return merge_parts(parts)


class _Truth:
    """What the ground truth of one image gives each metric, worked out once."""

    def __init__(self, truth: TruePanoptic, rule: PanopticRule, options: ScoringOptions) -> None:
        self.classes = semantic_truth(truth.panoptic_map, truth.segments, rule.category_ids)
        self.instances: list[tuple[int, float, Rle]] = []
        if options.instances:
            found = true_instances(truth.panoptic_map, truth.segments, rule.category_ids, rule.is_thing)
            self.instances = [(one.class_index, float(one.is_crowd), one.mask) for one in found]
            unlabelled = self.classes == IGNORED
            if options.void and unlabelled.any():
                self.instances.append((IGNORED, 0.0, encode_masks(unlabelled[None])[0]))


def _instances(prediction: ImagePrediction, rule: PanopticRule, max_instances: int) -> list[tuple[int, float, Rle]]:
    found = instance_inference(
        prediction.pred_logits, prediction.pred_masks, prediction.geometry, rule.is_thing, max_instances
    )
    return [
        (class_index, score, found.codes[mask_index])
        for class_index, score, mask_index in zip(
            found.class_index.tolist(), found.score.tolist(), found.mask_index.tolist(), strict=True
        )
    ]


def _count_entries(counts: Sequence[tuple[int, int, ImageCounts]]) -> CountEntries:
    whole: list[np.ndarray] = []
    iou_sum = [np.zeros(0)]
    for position, view, one in counts:
        present = np.flatnonzero(one.tp + one.fp + one.fn)
        place = np.broadcast_to([[position], [view]], (2, present.size))
        whole.append(np.vstack([place, present, one.tp[present], one.fp[present], one.fn[present]]))
        iou_sum.append(one.iou_sum[present])
    image, views, classes, tp, fp, fn = np.hstack([np.zeros((6, 0), np.int64), *whole])
    return CountEntries(image, views, classes, np.concatenate(iou_sum), tp, fp, fn)


def _instance_entries(entries: Sequence[tuple[int, int, int, float, Rle]]) -> InstanceEntries:
    codes = [bytes(mask["counts"]) for *_, mask in entries]
    return InstanceEntries(
        position=np.array([entry[0] for entry in entries], np.int64),
        view=np.array([entry[1] for entry in entries], np.int64),
        class_index=np.array([entry[2] for entry in entries], np.int64),
        score=np.array([entry[3] for entry in entries], np.float64),
        code_bytes=np.array([len(code) for code in codes], np.int64),
        size=np.array([entry[4]["size"] for entry in entries], np.int64).reshape(-1, 2),
        codes=np.frombuffer(b"".join(codes), np.uint8),
    )
