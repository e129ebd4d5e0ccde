"""Post-processing: equality with the recorded results of the original code, and its rules on hand-made masks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from ecocli.inference import postprocess
from ecocli.inference.postprocess import (
    Geometry,
    PanopticRule,
    instance_inference,
    panoptic_inference,
    resize_masks,
    semantic_inference,
    semantic_map,
)
from ecocli.runtime.interrupt import StopFlag, StopNowError

NO_OBJECT = 2


def plain(height: int, width: int) -> Geometry:
    """Masks that already have the image's size."""
    return Geometry((height, width), (height, width), (height, width))


def logits_of(*rows: tuple[int, float]) -> Tensor:
    """Class logits over classes 0, 1 and "no object" with the given winner and probability."""
    probability = torch.stack([torch.full((3,), (1 - p) / 2).index_fill(0, torch.tensor(k), p) for k, p in rows])
    return probability.log()


class Golden:
    """Recorded tensors of one model of shared/golden."""

    def __init__(self, shared_dir: Path, name: str) -> None:
        folder = shared_dir / "golden"
        self.record = json.loads((folder / f"{name}.json").read_text())
        self.tensors = safe_open(folder / f"{name}.safetensors", "pt")
        test = self.record["resolved"]["mask_former"]["TEST"]
        things = set(self.record["resolved"]["thing_classes"])
        self.rule = PanopticRule(
            tuple(index in things for index in range(12)),
            tuple(range(12)),
            test["OBJECT_MASK_THRESHOLD"],
            test["OVERLAP_THRESHOLD"],
        )

    def get(self, key: str) -> Tensor:
        tensor: Tensor = self.tensors.get_tensor(key)
        return tensor


@pytest.fixture(scope="module", params=["golden_r50_small", "golden_swin_small_cfg"])
def golden(request: pytest.FixtureRequest, shared_dir: Path) -> Golden:
    return Golden(shared_dir, request.param)


GEOMETRY_A = Geometry((128, 160), (128, 160), (128, 160))


def test_panoptic_inference__recorded_predictions__gives_the_recorded_map(golden: Golden) -> None:
    found, segments = panoptic_inference(
        golden.get("a.pred_logits")[0], golden.get("a.pred_masks")[0], GEOMETRY_A, golden.rule
    )
    assert np.array_equal(found, golden.get("a.panoptic_seg").numpy())
    expected = golden.record["inference"]["a"]["segments_info"]
    assert len(expected) > 0
    assert [(s.id, s.is_thing, s.category_id) for s in segments] == [
        (e["id"], e["isthing"], e["category_id"]) for e in expected
    ]
    assert [s.area for s in segments] == [int((found == s.id).sum()) for s in segments]


def test_semantic_inference__recorded_predictions__gives_the_recorded_scores(golden: Golden) -> None:
    found = semantic_inference(golden.get("a.pred_logits")[0], golden.get("a.pred_masks")[0], GEOMETRY_A)
    torch.testing.assert_close(found, golden.get("a.sem_seg"), atol=1e-5, rtol=1e-5)


def test_instance_inference__recorded_predictions__gives_the_recorded_instances(golden: Golden) -> None:
    found = instance_inference(
        golden.get("a.pred_logits")[0], golden.get("a.pred_masks")[0], GEOMETRY_A, golden.rule.is_thing, 10
    )
    order = golden.get("a.instances.scores").argsort(descending=True)
    torch.testing.assert_close(found.score, golden.get("a.instances.scores")[order], atol=1e-6, rtol=1e-5)
    assert found.class_index.tolist() == golden.get("a.instances.classes")[order].tolist()
    assert torch.equal(found.masks[found.mask_index], golden.get("a.instances.masks")[order].bool())


def test_resize_masks__padding_and_other_original_size__equals_the_steps_written_out() -> None:
    # By the definition: up to the padded input, crop, then to the original size.
    masks = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    padded = F.interpolate(masks[None], size=(32, 64), mode="bilinear", align_corners=False)
    expected = F.interpolate(padded[:, :, :20, :50], size=(33, 41), mode="bilinear", align_corners=False)[0]
    assert torch.equal(resize_masks(masks, Geometry((32, 64), (20, 50), (33, 41))), expected)


def test_panoptic_inference__stuff_twice_and_things_twice__merges_stuff_alone() -> None:
    # By hand: columns 0 and 1 are two queries of thing 0, columns 2 and 3 two queries of stuff 1.
    masks = torch.full((4, 2, 4), -9.0)
    for query in range(4):
        masks[query, :, query] = 9.0
    found, segments = panoptic_inference(
        logits_of((0, 0.9), (0, 0.9), (1, 0.9), (1, 0.9)), masks, plain(2, 4), PanopticRule((True, False), (7, 9))
    )
    assert found.tolist() == [[1, 2, 3, 3], [1, 2, 3, 3]]
    assert [(s.class_index, s.category_id, s.is_thing, s.area) for s in segments] == [
        (0, 7, True, 2),
        (0, 7, True, 2),
        (1, 9, False, 4),
    ]


def test_panoptic_inference__mostly_covered_mask__is_dropped_and_its_pixels_stay_void() -> None:
    # By hand: query 1 keeps 1 of its 4 pixels (0.25 < 0.8); nobody else takes that pixel.
    masks = torch.tensor([[[9.0, 9.0, 9.0, -9.0]], [[8.0, 8.0, 8.0, 8.0]]])
    found, segments = panoptic_inference(
        logits_of((0, 0.95), (1, 0.9)), masks, plain(1, 4), PanopticRule((True, False), (7, 9))
    )
    assert found.tolist() == [[1, 1, 1, 0]]
    assert len(segments) == 1


def test_panoptic_inference__best_query_below_one_half__leaves_void() -> None:
    # By hand: pixel 1 goes to query 0 by argmax (0.4), yet its probability is below one half.
    masks = torch.tensor([[[9.0, 9.0, 9.0, 9.0, 9.0, -0.4]]])
    found, _ = panoptic_inference(
        logits_of((0, 0.95)), masks, plain(1, 6), PanopticRule((True, False), (7, 9), 0.8, 0.8)
    )
    assert found.tolist() == [[1, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("row", [(NO_OBJECT, 0.99), (0, 0.8)])
def test_panoptic_inference__no_object_or_not_above_threshold__gives_nothing(row: tuple[int, float]) -> None:
    logits = logits_of(row)
    threshold = float(logits.softmax(-1)[0, row[0]]) if row[0] == 0 else 0.5  # exactly equal is not above
    found, segments = panoptic_inference(
        logits, torch.full((1, 2, 2), 9.0), plain(2, 2), PanopticRule((True, False), (7, 9), threshold)
    )
    assert not found.any()
    assert segments == ()


def test_panoptic_inference__any_chunking__gives_the_same_map(monkeypatch: pytest.MonkeyPatch) -> None:
    # Masks with many exact ties between queries, so that the order of comparison would show.
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(-3, 4, (13, 6, 6), generator=generator).float()
    logits = logits_of(*[(query % 2, 0.9) for query in range(13)])
    rule = PanopticRule((True, False), (7, 9), 0.8, 0.05)
    results = []
    for masks_at_once in (1, 4, 100):
        monkeypatch.setattr(postprocess, "_MASKS_AT_ONCE", masks_at_once)
        results.append(panoptic_inference(logits, masks, Geometry((24, 24), (20, 24), (15, 17)), rule))
    assert results[0][0].max() >= 2
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][0], results[2][0])
    assert results[0][1] == results[2][1]


@pytest.mark.parametrize("geometry", [Geometry((32, 64), (29, 51), (117, 203)), Geometry((32, 32), (1, 32), (2, 300))])
def test_inference__band_by_band__gives_what_one_band_gives(
    geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    logits, masks = 3 * torch.randn(20, 6, generator=generator), torch.randn(20, 8, 8, generator=generator)
    rule, things = PanopticRule((True,) * 5, tuple(range(5)), 0.3, 0.1), (True,) * 5
    whole = panoptic_inference(logits, masks, geometry, rule)
    found = instance_inference(logits, masks, geometry, things)
    # Some rows at a time, one mask at a time.
    monkeypatch.setattr(postprocess, "_BAND_PIXELS", 1000)
    bands = panoptic_inference(logits, masks, geometry, rule)
    assert whole[0].max() >= 3
    assert np.array_equal(bands[0], whole[0])
    assert bands[1] == whole[1]
    again = instance_inference(logits, masks, geometry, things)
    assert torch.equal(again.masks, found.masks)
    torch.testing.assert_close(again.score, found.score)


def test_inference__stop_asked_for__leaves_between_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postprocess, "_BAND_PIXELS", 1)
    masks, rule = torch.full((1, 2, 2), 3.0), PanopticRule((True, False), (7, 9))
    with StopFlag() as stop:
        stop.request()
        panoptic_inference(logits_of((0, 0.9)), masks, plain(2, 2), rule)
        monkeypatch.setattr(stop, "_at_once", True)
        with pytest.raises(StopNowError):
            panoptic_inference(logits_of((0, 0.9)), masks, plain(2, 2), rule)


def test_panoptic_inference__equal_sizes__leaves_its_input_alone() -> None:
    masks = torch.full((1, 2, 2), 3.0)
    panoptic_inference(logits_of((0, 0.9)), masks, plain(2, 2), PanopticRule((True, False), (7, 9)))
    instance_inference(logits_of((0, 0.9)), masks, plain(2, 2), (True, False))
    semantic_map(logits_of((0, 0.9)), masks, plain(2, 2))
    semantic_inference(logits_of((0, 0.9)), masks, plain(2, 2))
    assert masks.unique().tolist() == [3.0]


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((32, 32), (30, 32), (23, 29)),
        Geometry((32, 64), (29, 51), (117, 203)),
        Geometry((64, 32), (64, 32), (64, 32)),
        Geometry((32, 32), (1, 32), (1, 300)),
        Geometry((8, 8), (8, 8), (8, 8)),
    ],
)
@pytest.mark.parametrize("values_at_once", [1, 2000, 1 << 22])
def test_semantic_map__random_predictions__is_the_argmax_of_the_scores(
    geometry: Geometry, values_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, "_MASK_VALUES_AT_ONCE", values_at_once)
    generator = torch.Generator().manual_seed(2)
    logits, masks = torch.randn(11, 6, generator=generator), torch.randn(11, 8, 8, generator=generator)
    expected = semantic_inference(logits, masks, geometry).argmax(dim=0)
    assert torch.equal(semantic_map(logits, masks, geometry), expected.int())


_PEAK_OF_EACH_RESULT = """
import resource, sys, torch
from ecocli.inference import coco_output, postprocess as p
from ecocli.data.categories import Category

Q = int(sys.argv[1])
generator = torch.Generator().manual_seed(0)
logits, masks = 3 * torch.randn(Q, 9, generator=generator), torch.randn(Q, 8, 8, generator=generator)
geometry, things = p.Geometry((32, 32), (32, 32), (600, 600)), (True,) * 8
categories = tuple(Category(k, str(k), "s", True, (k, k, k)) for k in range(8))

def run(size):
    geometry = p.Geometry((32, 32), (32, 32), (size, size))
    p.panoptic_inference(logits, masks, geometry, p.PanopticRule(things, tuple(range(8)), 0.0, 0.0))
    p.semantic_map(logits, masks, geometry)
    coco_output.instance_entries(1, p.instance_inference(logits, masks, geometry, things, 20), categories)

run(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(600)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_post_processing__three_times_the_queries__no_more_memory() -> None:
    # A mask of this size takes 1.4 MB as float32: 200 more queries would show as 270 MiB if all were held at once.
    def peak_mib(queries: int) -> int:
        command = [sys.executable, "-c", _PEAK_OF_EACH_RESULT, str(queries)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    few, many = peak_mib(100), peak_mib(300)
    assert few < 200
    assert many < few + 100


def test_instance_inference__stuff_and_two_classes_of_one_query__keeps_things_and_shares_the_mask() -> None:
    # By hand: of the pairs (0, thing 0), (1, stuff 1), (0, stuff 1), (1, thing 0) the two things stay.
    logits = logits_of((0, 0.6), (1, 0.7))
    masks = torch.tensor([[[2.0, -2.0]], [[0.0, 1.0]]])
    found = instance_inference(logits, masks, plain(1, 2), (True, False), 4)
    sigmoid = torch.tensor([2.0, 1.0]).sigmoid()
    torch.testing.assert_close(found.score, torch.tensor([0.6, 0.15]) * sigmoid)
    assert found.class_index.tolist() == [0, 0]
    # A logit of exactly 0 is outside the mask.
    assert found.masks[found.mask_index].tolist() == [[[True, False]], [[False, True]]]


def test_panoptic_inference__pixels_claimed_outside_the_own_mask__count_towards_the_overlap() -> None:
    # By hand, the original's rule: query 0 has a mask of pixels 0 to 3, loses 2 and 3 to query 1, and is the best of
    # both at 4 and 5, where its mask is not. It claims four pixels of four and stays, with the two that it shows.
    masks = torch.tensor([[0.9, 0.9, 0.6, 0.6, 0.4, 0.4, 0.01, 0.01], [0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.9, 0.9]])
    rule = PanopticRule((True, True), (10, 20))
    found, segments = panoptic_inference(logits_of((0, 0.99), (1, 0.99)), masks.logit()[:, None], plain(1, 8), rule)
    assert found.tolist() == [[1, 1, 2, 2, 0, 0, 2, 2]]
    assert [(segment.category_id, segment.area) for segment in segments] == [(10, 2), (20, 4)]
