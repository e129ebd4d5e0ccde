"""Small street scenes in Cityscapes' own encoding, the same ones with every version of Python and NumPy.

A pixel of the truth holds an instance id: the label of stuff, of void and of a group of things; 1000 times the label
and a number for an instance. Boxes are drawn over each other: instances of 8 to 3000 pixels, groups also below 100
pixels, void. Predictions are shifted copies, doubles, copies of the wrong class, and boxes anywhere; confidences have
one digit, so that many are equal. Some classes are predicted and never true, and the other way round.
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from ecocli.data.categories import CITYSCAPES

HEIGHT, WIDTH = 80, 120
STUFF, VOID = (7, 8, 11, 21, 23), (0, 3, 4, 9, 15)
THINGS = tuple(category.id for category in CITYSCAPES if category.is_thing)


@dataclass(frozen=True)
class DrawnImage:
    """One image: its truth, its instances and its semantic map.

    Attributes:
        instance_ids: Truth, as Cityscapes' ``instanceIds`` files have it.
        predicted: Label, mask and confidence of each predicted instance.
        labels: Predicted label of each pixel.
    """

    instance_ids: np.ndarray
    predicted: list[tuple[int, np.ndarray, float]]
    labels: np.ndarray

    @property
    def segments(self) -> list[tuple[int, int, bool]]:
        """Segment id, category id and crowd of the panoptic map, by the rules of ``createPanopticImgs``."""
        known = {category.id for category in CITYSCAPES}
        ids = np.unique(self.instance_ids).tolist()
        labels = [(value, value if value < 1000 else value // 1000) for value in ids]
        return [(value, label, value < 1000 and label in THINGS) for value, label in labels if label in known]

    @property
    def panoptic_map(self) -> np.ndarray:
        """Segment ids, 0 where the truth is void."""
        ids = [value for value, _, _ in self.segments]
        return np.where(np.isin(self.instance_ids, ids), self.instance_ids, 0).astype(np.int32)


def draw_set(seed: int, images: int = 5) -> list[DrawnImage]:
    """Draw a data set; every seed leaves other classes out of the truth, and others out of the predictions."""
    random = Random(seed)
    # The one method whose numbers Python promises to keep is ``random``.
    true_labels = sorted(THINGS, key=lambda _: random.random())[:5]
    predicted_labels = sorted(THINGS, key=lambda _: random.random())[:6]
    return [_draw(random, true_labels, [*predicted_labels, *true_labels[:3]]) for _ in range(images)]


def _draw(random: Random, true_labels: list[int], predicted_labels: list[int]) -> DrawnImage:
    ids = np.full((HEIGHT, WIDTH), _pick(random, STUFF), np.int32)
    for _ in range(3):
        ids[_box(random, 40, 60)] = _pick(random, STUFF)
    boxes = []
    for number in range(7):
        label = _pick(random, true_labels)
        box = _box(random, 3, 5) if random.random() < 0.25 else _box(random, 40, 50)
        ids[box] = label if random.random() < 0.25 else label * 1000 + number
        boxes.append((label, box))
    for _ in range(2):
        ids[_box(random, 25, 35)] = _pick(random, VOID)
    predicted = []
    for label, box in boxes:
        for _ in range(1 + int(random.random() * 2.5)):
            said = label if random.random() < 0.8 else _pick(random, predicted_labels)
            predicted.append((said, _mask(_moved(random, box)), round(random.random(), 1)))
    for _ in range(4):
        predicted.append((_pick(random, predicted_labels), _mask(_box(random, 30, 40)), round(random.random(), 1)))
    predicted.append((_pick(random, predicted_labels), np.zeros((HEIGHT, WIDTH), bool), 1.0))
    labels = np.where(ids < 1000, ids, ids // 1000)
    labels[np.isin(labels, VOID)] = STUFF[0]
    for _ in range(4):
        labels[_box(random, 30, 50)] = _pick(random, (*STUFF, *predicted_labels))
    return DrawnImage(ids, predicted, labels)


def _pick(random: Random, values: tuple[int, ...] | list[int]) -> int:
    return values[int(random.random() * len(values))]


def _box(random: Random, tallest: int, widest: int) -> tuple[slice, slice]:
    height, width = 2 + int(random.random() * tallest), 4 + int(random.random() * widest)
    top, left = int(random.random() * (HEIGHT - height)), int(random.random() * (WIDTH - width))
    return slice(top, top + height), slice(left, left + width)


def _moved(random: Random, box: tuple[slice, slice]) -> tuple[slice, slice]:
    down, right = int(random.random() * 5) - 2, int(random.random() * 7) - 3
    rows, columns = box
    return (
        slice(max(rows.start + down, 0), max(rows.stop + down, 1)),
        slice(max(columns.start + right, 0), max(columns.stop + right, 1)),
    )


def _mask(box: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[box] = True
    return mask
