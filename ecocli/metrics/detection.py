"""Box AP of any assignment of exits to images, by arithmetic on recorded matches.

Axes: N images, E exits, K classes, P recorded detections, T = 10 IoU thresholds, A = 4 area ranges, M mixtures,
R replicates.
Source: COCO's box evaluation (pycocotools' ``COCOeval``), whose values these are to rounding. AP is no sum over images:
it ranks all detections of the data set. But which of them are right is known image by image (``box_matching``), so the
AP of any choice of detections needs neither network nor boxes.

A mixture sends image n to exit e with probability ``weights[n, e]``. Its AP is taken at the expected counts: every
detection counts as much as its exit is probable. That is exact for an assignment (weights 0 and 1), and for a random
one the limit of many images. Values are fractions 0..1; NaN stands for "no class occurs, AP undefined".
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64, UInt16

from ecocli.metrics.box_matching import AREA_NAMES, IOU_THRESHOLDS, bits_at, recall_curve
from ecocli.metrics.results import AveragePrecisions

_T = len(IOU_THRESHOLDS)
_ALL = 0


@dataclass(frozen=True, eq=False)
class DetectionTable:
    """Detections per image and exit, as ``MatchedDetections`` has them; grouped by ascending image, best first.

    Attributes:
        num_images: N.
        num_exits: E.
        num_classes: K.
        image: Image of each detection, ascending.
        exit_index: Its exit, from 0.
        matched: Bits: whether it has a true box.
        ignored: Bits: whether it counts for nothing.
        true_image: Image of each entry of ``true_counts``, ascending.
        true_counts: True boxes to be found, per area range.
    """

    num_images: int
    num_exits: int
    num_classes: int
    image: Int64[np.ndarray, " P"]
    exit_index: Int64[np.ndarray, " P"]
    class_index: Int64[np.ndarray, " P"]
    score: Float64[np.ndarray, " P"]
    matched: UInt16[np.ndarray, "P 4"]
    ignored: UInt16[np.ndarray, "P 4"]
    true_image: Int64[np.ndarray, " G"]
    true_class: Int64[np.ndarray, " G"]
    true_counts: Int64[np.ndarray, "G 4"]

    def __post_init__(self) -> None:
        for name, values, limit in (
            ("image", self.image, self.num_images),
            ("exit", self.exit_index, self.num_exits),
            ("class", self.class_index, self.num_classes),
            ("true image", self.true_image, self.num_images),
            ("true class", self.true_class, self.num_classes),
        ):
            if values.size and not (values.min() >= 0 and values.max() < limit):
                raise ValueError(
                    f"{name} index of the detection table spans {values.min()}..{values.max()}, "
                    f"but there are {limit}: expected 0..{limit - 1}"
                )
        for name, images in (("detections", self.image), ("true boxes", self.true_image)):
            if bool((np.diff(images) < 0).any()):
                raise ValueError(f"{name} of the detection table must be grouped by ascending image")

    @cached_property
    def _ranking(self) -> Int64[np.ndarray, " P"]:
        """All detections class by class, best first; of equal scores in the order of the images."""
        return np.lexsort((-self.score, self.class_index))

    def box_quality(self, weights: Float64[np.ndarray, "N E"]) -> AveragePrecisions:
        """Give all AP values under exit probabilities per image."""
        averages = [self._averages(weights, area) for area in range(len(AREA_NAMES))]
        means = [_mean(averages[_ALL]), _mean(averages[_ALL][:, :1]), _mean(averages[_ALL][:, 5:6])]
        values = [*means, *(_mean(area) for area in averages[1:])]
        return AveragePrecisions(*(None if np.isnan(value) else value for value in values))

    def quality(self, weights: Float64[np.ndarray, "N E"]) -> float:
        """Give the AP under exit probabilities per image."""
        return _mean(self._averages(weights, _ALL))

    def class_quality(self, weights: Float64[np.ndarray, "N E"]) -> dict[int, tuple[float, float]]:
        """Give AP and AP50 of each class that occurs, under exit probabilities per image."""
        occurring = np.flatnonzero(np.bincount(self.true_class, self.true_counts[:, _ALL], self.num_classes))
        averages = self._averages(weights, _ALL)
        return {int(label): (float(row.mean()), float(row[0])) for label, row in zip(occurring, averages, strict=True)}

    def _averages(self, weights: Float64[np.ndarray, "N E"], area: int) -> Float64[np.ndarray, "C T"]:
        """AP of each class that occurs at each threshold."""
        share = weights[self.image, self.exit_index]
        ranking = self._ranking[share[self._ranking] > 0]
        curves = _Ranked.of(self, ranking, share[ranking], area)
        positives = np.bincount(self.true_class, self.true_counts[:, area], self.num_classes)
        return curves.averages(np.ones(self.num_images), positives.astype(np.float64))

    def contents(self) -> Float64[np.ndarray, "N K"]:
        """True boxes of each class in each image."""
        cells = self.true_image * self.num_classes + self.true_class
        true = np.bincount(cells, self.true_counts[:, _ALL], self.num_images * self.num_classes).astype(np.float64)
        return true.reshape(self.num_images, self.num_classes)

    def assignment_quality(self, assignment: Int64[np.ndarray, " N"]) -> float:
        """Give the data set's AP, exactly, with each image at its own exit (an index from 0)."""
        return self.quality(np.eye(self.num_exits)[assignment])

    def mixture_quality(self, mixture: Float64[np.ndarray, " E"]) -> float:
        """Give the AP at the expected results of a mixture that ignores the image."""
        return self.quality(np.broadcast_to(mixture, (self.num_images, self.num_exits)))

    def fixed_assignment(self, exit_index: int) -> Int64[np.ndarray, " N"]:
        """Send every image to one exit."""
        return np.full(self.num_images, exit_index, np.int64)

    def replicates(
        self, weights: Float64[np.ndarray, "M N E"], replicates: int, seed: int
    ) -> Float64[np.ndarray, "R M"]:
        """Resample the images with replacement and give the AP of each of M mixtures.

        The mixtures share each replicate's images, so differences between them are paired.

        Args:
            weights: Exit probabilities per mixture and image; 0 and 1 for an assignment.
        """
        ranked = []
        for mixture in weights:
            share = mixture[self.image, self.exit_index]
            ranking = self._ranking[share[self._ranking] > 0]
            ranked.append(_Ranked.of(self, ranking, share[ranking], _ALL))
        generator = np.random.default_rng(seed)
        N = self.num_images
        values = np.empty((replicates, len(weights)))
        for replicate in range(replicates):
            drawn = np.bincount(generator.integers(0, N, N), minlength=N).astype(np.float64)
            positives = np.bincount(
                self.true_class, self.true_counts[:, _ALL] * drawn[self.true_image], self.num_classes
            ).astype(np.float64)
            values[replicate] = [_mean(curves.averages(drawn, positives)) for curves in ranked]
        return values

    def contributions(self) -> Float64[np.ndarray, "N E"]:
        """Say what each image's exit does to the data set's AP, to first order and times N; zero is no image at all.

        Every image stands at the deepest exit. The derivative is that of AP without interpolation, the mean precision
        at the right detections: a right detection at score s adds its precision and raises that of all right ones
        below, a wrong one lowers those below, and a true box counts against the class's average.
        """
        share = (self.exit_index == self.num_exits - 1).astype(np.float64)
        cells = self.image * self.num_exits + self.exit_index
        sums = np.zeros(self.num_images * self.num_exits)
        missing = np.zeros(self.num_images)
        positives = np.bincount(self.true_class, self.true_counts[:, _ALL], self.num_classes)
        for label in np.flatnonzero(positives):
            own = self._ranking[self.class_index[self._ranking] == label]
            average = np.zeros(_T)
            for t in range(_T):
                counts = ~bits_at(self.ignored[own, _ALL], t)
                right = bits_at(self.matched[own, _ALL], t) & counts
                base_right, total = (share[own] * right).cumsum(), (share[own] * counts).cumsum()
                precision = np.divide(base_right, total, out=np.zeros(len(own)), where=total > 0)
                at_right = np.divide(share[own] * right, total, out=np.zeros(len(own)), where=total > 0)
                # What the right detections from here on gain by one more right one, and lose by one more wrong one.
                gain = ((1 - precision) * at_right)[::-1].cumsum()[::-1]
                loss = (precision * at_right)[::-1].cumsum()[::-1]
                effect = np.where(right, precision + gain, np.where(counts, -loss, 0.0))
                sums += np.bincount(cells[own], effect / positives[label] / _T, len(sums))
                average[t] = (share[own] * right * precision).sum() / positives[label]
            held = self.true_class == label
            missing += np.bincount(
                self.true_image[held],
                self.true_counts[held, _ALL] * average.mean() / positives[label],
                self.num_images,
            )
        scale = self.num_images / max(int((positives > 0).sum()), 1)
        return scale * (sums.reshape(self.num_images, -1) - missing[:, None])

    def first_exits(self, number: int) -> "DetectionTable":
        """Leave out all exits but the first ones."""
        kept = self.exit_index < number
        return self._with(kept, np.ones(len(self.true_image), bool), number, self.num_images)

    def select(self, images: Int64[np.ndarray, " S"]) -> "DetectionTable":
        """The table of some images, ascending."""
        position = np.full(self.num_images, -1)
        position[images] = np.arange(len(images))
        table = self._with(position[self.image] >= 0, position[self.true_image] >= 0, self.num_exits, self.num_images)
        return replace(
            table,
            image=position[table.image],
            true_image=position[table.true_image],
            num_images=len(images),
        )

    def _with(self, kept: np.ndarray, true_kept: np.ndarray, num_exits: int, num_images: int) -> "DetectionTable":
        return DetectionTable(
            num_images,
            num_exits,
            self.num_classes,
            self.image[kept],
            self.exit_index[kept],
            self.class_index[kept],
            self.score[kept],
            self.matched[kept],
            self.ignored[kept],
            self.true_image[true_kept],
            self.true_class[true_kept],
            self.true_counts[true_kept],
        )


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Ranked detections of one mixture, class by class, ready to be weighted by how often each image counts.

    Precision matters at right detections only. So runs of detections that are wrong at every threshold are one entry
    each: their weights are summed, and arrays over thresholds hold the others alone.
    """

    image: Int64[np.ndarray, " P"]
    share: Float64[np.ndarray, " P"]
    starts: Int64[np.ndarray, " n"]
    bounds: Int64[np.ndarray, " K1"]
    right: Float64[np.ndarray, "T n"]
    wrong: Float64[np.ndarray, "T n"]

    @classmethod
    def of(
        cls, table: DetectionTable, ranking: Int64[np.ndarray, " P"], share: Float64[np.ndarray, " P"], area: int
    ) -> "_Ranked":
        matched, ignored = table.matched[ranking, area], table.ignored[ranking, area]
        labels = table.class_index[ranking]
        plain = (matched | ignored) == 0
        # A run goes on while a plain detection follows a plain one of its class.
        begins = np.ones(len(ranking), bool)
        begins[1:] = ~(plain[1:] & plain[:-1] & (labels[1:] == labels[:-1]))
        starts = np.flatnonzero(begins)
        levels = range(_T)
        right = np.stack([bits_at(matched[starts] & ~ignored[starts], t) for t in levels])
        wrong = np.stack([~bits_at(matched[starts] | ignored[starts], t) for t in levels])
        bounds = np.searchsorted(labels[starts], np.arange(table.num_classes + 1))
        return cls(table.image[ranking], share, starts, bounds, right.astype(np.float64), wrong.astype(np.float64))

    def averages(
        self, image_weights: Float64[np.ndarray, " N"], positives: Float64[np.ndarray, " K"]
    ) -> Float64[np.ndarray, "C T"]:
        """AP of each class that occurs at each threshold."""
        weights = np.add.reduceat(image_weights[self.image] * self.share, self.starts) if len(self.starts) else None
        tolerance = 0.0 if bool((self.share == 1.0).all()) else 1e-9
        curves = []
        for label in np.flatnonzero(positives > 0):
            runs = slice(self.bounds[label], self.bounds[label + 1])
            if weights is None or runs.start == runs.stop:
                curves.append(np.zeros(_T))
                continue
            right = (self.right[:, runs] * weights[runs]).cumsum(axis=1)
            wrong = (self.wrong[:, runs] * weights[runs]).cumsum(axis=1)
            curves.append(recall_curve(right, wrong, float(positives[label]), tolerance))
        return np.stack(curves) if curves else np.empty((0, _T))


def _mean(averages: Float64[np.ndarray, "C t"]) -> float:
    return float(averages.mean()) if averages.size else float("nan")
