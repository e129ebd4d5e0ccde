"""Choice of example images, from qualities set by hand."""

import numpy as np

from ecocli.reports.examples import DEEP, REGRET, REVERSE, SHALLOW, TYPICAL, pick_examples

NAN = np.nan
# Rows: needs depth; easy; hurt by depth; undefined; middling; gate fails here.
QUALITY = np.array([[0.2, 0.9], [0.95, 0.95], [0.8, 0.5], [NAN, NAN], [0.6, 0.62], [0.5, 0.7]])
GATE = np.array([0.9, 0.95, 0.5, NAN, 0.62, 0.2])


def test_pick_examples__with_gate__shows_each_kind_once_before_any_twice() -> None:
    chosen = pick_examples(QUALITY, GATE, 4)
    assert {(e.position, e.reason) for e in chosen} == {(0, DEEP), (1, SHALLOW), (5, REGRET), (4, TYPICAL)}


def test_pick_examples__without_gate__shows_where_depth_hurts() -> None:
    assert (2, REVERSE) in {(e.position, e.reason) for e in pick_examples(QUALITY, None, 4)}


def test_pick_examples__more_than_there_are__shows_every_defined_image_once() -> None:
    assert sorted(e.position for e in pick_examples(QUALITY, GATE, 50)) == [0, 1, 2, 4, 5]


def test_pick_examples__nothing_defined_or_wanted__is_empty() -> None:
    assert pick_examples(np.full((3, 2), NAN), None, 4) == []
    assert pick_examples(QUALITY, GATE, 0) == []
