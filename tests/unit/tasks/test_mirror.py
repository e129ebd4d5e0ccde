"""The truth of mirror images, of both tasks."""

import numpy as np

from ecocli.data.panoptic import Segment
from ecocli.metrics.box_matching import TrueBoxes
from ecocli.scoring.batches import TruePanoptic
from ecocli.tasks.detection import DetectionTask
from ecocli.tasks.panoptic import PanopticTask


def test_mirror__panoptic__columns_and_boxes_turn_round() -> None:
    ids = np.array([[7, 7, 0, 0, 0], [7, 0, 0, 9, 9]], np.int32)
    truth = TruePanoptic(ids, [Segment(7, 1, False, 3, (0, 0, 2, 2)), Segment(9, 2, True, 2, (3, 1, 2, 1))])
    turned = PanopticTask().mirror(truth, 5)
    assert turned.panoptic_map.tolist() == [[0, 0, 0, 7, 7], [9, 9, 0, 0, 7]]
    # Left of each: 5 - 0 - 2 and 5 - 3 - 2.
    assert [segment.bbox for segment in turned.segments] == [(3, 0, 2, 2), (0, 1, 2, 1)]
    assert [(s.id, s.category_id, s.is_crowd, s.area) for s in turned.segments] == [(7, 1, False, 3), (9, 2, True, 2)]
    back = PanopticTask().mirror(turned, 5)
    assert back.panoptic_map.tolist() == ids.tolist()
    assert list(back.segments) == list(truth.segments)


def test_mirror__detection__boxes_turn_round() -> None:
    boxes = np.array([[0.0, 1.0, 30.0, 4.0], [60.5, 2.0, 39.5, 8.0]])
    truth = TrueBoxes(np.array([2, 0]), boxes, np.array([100.0, 200.0]), np.array([False, True]))
    turned = DetectionTask().mirror(truth, 100)
    assert turned.boxes.tolist() == [[70.0, 1.0, 30.0, 4.0], [0.0, 2.0, 39.5, 8.0]]
    assert truth.boxes[0, 0] == 0.0
    assert turned.class_index.tolist() == [2, 0]
    assert DetectionTask().mirror(turned, 100).boxes.tolist() == boxes.tolist()
