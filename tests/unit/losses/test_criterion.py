from pathlib import Path

import pytest
import torch
from helpers_losses import FixedPoints, GridPoints, cell_centres, plain_loss
from torch import Tensor

from ecocli.losses import criterion as criterion_module
from ecocli.losses.criterion import Criterion
from ecocli.losses.points import SeededPoints
from ecocli.losses.targets import PackedTargets, pack_targets

SIZE = (12, 20)


def make_case(counts: tuple[int, ...]) -> tuple[Tensor, Tensor, list, list]:
    generator = torch.Generator().manual_seed(sum(counts))
    P, B, Q, K = 3, len(counts), 5, 4
    logits = torch.randn(P, B, Q, K + 1, generator=generator)
    masks = 2 * torch.randn(P, B, Q, 6, 10, generator=generator)
    labels = [torch.randint(0, K, (count,), generator=generator) for count in counts]
    objects = [torch.rand(count, *SIZE, generator=generator) < 0.4 for count in counts]
    return logits.requires_grad_(), masks.requires_grad_(), labels, objects


def pack(labels: list[Tensor], objects: list[Tensor]) -> PackedTargets:
    return pack_targets(labels, objects, SIZE)


@pytest.mark.parametrize(
    ("shared", "matched_by"), [(False, None), (True, None), (True, [2, 1, 2]), (True, [0, 0, 0]), (True, [1, 2, 0])]
)
@pytest.mark.parametrize("counts", [(2, 0, 4), (1, 3), (7, 2)])
def test_criterion__random_case__equals_plain_loop_with_gradients(
    counts: tuple[int, ...], shared: bool, matched_by: list[int] | None
) -> None:
    # Origin: plain_loss, a loop over predictions, images and objects; (7, 2) has more objects than queries.
    logits, masks, labels, objects = make_case(counts)
    P, B, G = 3, len(counts), sum(counts)
    criterion = Criterion(num_classes=4, num_points=8)
    generator = torch.Generator().manual_seed(1)
    S = 1 if shared else P
    matching = torch.rand(S, B, 8, 2, generator=generator)
    candidates = torch.rand(S, G, 24, 2, generator=generator)
    uniform = torch.rand(S, G, 2, 2, generator=generator)
    weights = torch.tensor([1.0, 2.0, 0.5])

    source = FixedPoints([matching], [candidates, uniform])
    out = criterion(logits, masks, pack(labels, objects), weights, source, matched_by=matched_by)
    found = out.total
    found_gradients = torch.autograd.grad(found, (logits, masks))
    expected = plain_loss(
        criterion,
        logits,
        masks,
        labels,
        objects,
        weights,
        matching.expand(P, -1, -1, -1),
        candidates.expand(P, -1, -1, -1),
        uniform.expand(P, -1, -1, -1),
        matched_by,
    )
    expected_gradients = torch.autograd.grad(expected, (logits, masks))

    assert source.counts_seen == [counts, counts]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_criterion__objects_in_no_image__mask_loss_is_zero_and_reaches_masks() -> None:
    logits, masks, labels, objects = make_case((0, 0))
    criterion = Criterion(num_classes=4, num_points=8)
    out = criterion(logits, masks, pack(labels, objects), torch.ones(3), SeededPoints([1, 2]))
    out.total.backward()
    assert out.terms["mask"].tolist() == [0.0, 0.0, 0.0]
    assert out.terms["dice"].tolist() == [0.0, 0.0, 0.0]
    assert (out.terms["class"] > 0).all()
    assert masks.grad is not None
    assert not masks.grad.any()
    assert logits.grad is not None
    assert logits.grad.any()


def test_criterion__parts_with_normalisers_of_the_whole__sum_to_the_whole() -> None:
    logits, masks, labels, objects = make_case((2, 0, 4, 1))
    criterion = Criterion(num_classes=4, num_points=16)
    weights = torch.tensor([1.0, 2.0, 3.0])
    whole = criterion(logits, masks, pack(labels, objects), weights, SeededPoints([10, 11, 12, 13]))
    class_weight_sum = criterion.class_weight_sum((2, 0, 4, 1), num_queries=5)
    parts = [
        criterion(
            logits[:, rows],
            masks[:, rows],
            pack(labels[rows], objects[rows]),
            weights,
            SeededPoints(list(range(10, 14))[rows]),
            num_objects=7.0,
            class_weight_sum=class_weight_sum,
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
    torch.testing.assert_close(parts[0].terms["class"] + parts[1].terms["class"], whole.terms["class"])
    torch.testing.assert_close(parts[0].terms["mask"] + parts[1].terms["mask"], whole.terms["mask"])
    torch.testing.assert_close(torch.cat([part.image_losses for part in parts]), whole.image_losses)


def test_criterion__share_of_less_than_one_object__counts_as_one() -> None:
    # As in the original, whose clamp(num_masks / world_size, min=1) keeps a step of few objects from weighing more.
    logits, masks, labels, objects = make_case((1, 0))
    losses = [
        Criterion(num_classes=4, num_points=16)(
            logits, masks, pack(labels, objects), torch.ones(3), SeededPoints([1, 2]), num_objects=share
        )
        for share in (0.25, 1.0)
    ]
    assert torch.equal(losses[0].terms["mask"], losses[1].terms["mask"])
    assert torch.equal(losses[0].total, losses[1].total)


def test_class_weight_sum__more_objects_than_queries__counts_matched_queries() -> None:
    # By hand: 3 queries per image; image 0 matches 2, image 1 all 3 of its 5 objects: 5 x 1 + 1 x 0.1.
    assert Criterion(num_classes=4).class_weight_sum((2, 5), num_queries=3) == pytest.approx(5.1)


@pytest.mark.parametrize("matched_by", [None, [2, 1, 2], [0, 0, 0]])
def test_criterion__worked_in_portions__same_losses(
    monkeypatch: pytest.MonkeyPatch, matched_by: list[int] | None
) -> None:
    logits, masks, labels, objects = make_case((2, 3))
    criterion = Criterion(num_classes=4, num_points=60, oversample_ratio=1.0, importance_ratio=1.0)
    points = GridPoints(cell_centres(6, 10), num_images=2)
    whole = criterion(logits, masks, pack(labels, objects), torch.ones(3), points, matched_by=matched_by)
    monkeypatch.setattr(criterion_module, "_PORTION_ELEMENTS", 2 * 5 * 60)
    portions = criterion(logits, masks, pack(labels, objects), torch.ones(3), points, matched_by=matched_by)
    torch.testing.assert_close(portions.total, whole.total)
    torch.testing.assert_close(portions.terms["dice"], whole.terms["dice"])
    assert torch.equal(portions.queries, whole.queries)


def test_criterion__bfloat16_under_autocast__equals_float32_of_same_values() -> None:
    logits, masks, labels, objects = make_case((2, 3))
    logits, masks = logits.detach().bfloat16(), masks.detach().bfloat16()
    criterion = Criterion(num_classes=4, num_points=16)
    targets = pack(labels, objects)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = criterion(logits, masks, targets, torch.ones(3), SeededPoints([1, 2]))
    full = criterion(logits.float(), masks.float(), targets, torch.ones(3), SeededPoints([1, 2]))
    assert half.total.dtype == torch.float32
    assert half.total.item() == full.total.item()


@pytest.mark.parametrize("part", ["logits", "masks"])
def test_criterion__nan_in_one_image__only_its_loss_is_not_finite(part: str) -> None:
    logits, masks, labels, objects = make_case((2, 3, 1))
    with torch.no_grad():
        (logits if part == "logits" else masks)[1, 1] = torch.nan
    criterion = Criterion(num_classes=4, num_points=16)
    out = criterion(logits, masks, pack(labels, objects), torch.ones(3), SeededPoints([1, 2, 3]))
    assert out.image_losses.isfinite().tolist() == [True, False, True]


def read_golden(shared_dir: Path, name: str) -> tuple[dict, dict]:
    import json

    from safetensors.torch import load_file

    folder = shared_dir / "golden"
    return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())


def recorded_points(
    tensors: dict[str, Tensor], batch: str, matches: list[list[tuple[list[int], list[int]]]]
) -> FixedPoints:
    """The original's random draws; its objects come by ascending query, ours by position in the targets."""
    B = len(matches[0])
    draws = [[tensors[f"{batch}.seeded.rand{p * (B + 2) + i}"] for i in range(B + 2)] for p in range(len(matches))]
    matching = torch.stack([torch.cat(draw[:B]) for draw in draws])
    objects = []
    for position in (B, B + 1):
        rows = []
        for draw, images in zip(draws, matches, strict=True):
            order, first = [], 0
            for _, places in images:
                order += [first + place for place in places]
                first += len(places)
            rows.append(torch.empty_like(draw[position]).index_copy(0, torch.tensor(order), draw[position]))
        objects.append(torch.stack(rows))
    return FixedPoints([matching], objects)


@pytest.mark.parametrize("mode", ["seeded", "grid"])
@pytest.mark.parametrize("batch", ["batch1", "batch2"])
@pytest.mark.parametrize("name", ["golden_r50_small", "golden_swin_small_cfg"])
def test_criterion__recorded_originals__same_losses_and_matches(
    shared_dir: Path, name: str, batch: str, mode: str
) -> None:
    # Origin: golden/, recorded from the original Mask2Former; batch2 has its final prediction only.
    tensors, facts = read_golden(shared_dir, name)
    suffixes, keys = [""], ["batch2"]
    if batch == "batch1":
        layers = len(facts["losses"]["batch1"]["grid_matches"]) - 1
        suffixes += [f"_{layer}" for layer in range(layers)]
        keys = ["a", *(f"a.aux.{layer}" for layer in range(layers))]
    logits = torch.stack([tensors[f"{key}.pred_logits"] for key in keys])
    masks = torch.stack([tensors[f"{key}.pred_masks"] for key in keys])
    images = ["a"] if batch == "batch1" else ["a", "b"]
    targets = pack_targets(
        [tensors[f"{image}.target.labels"] for image in images],
        [tensors[f"{image}.target.masks"].bool() for image in images],
        (128, 160),
    )
    expected = facts["losses"][batch]
    matches = expected[f"{mode}_matches"][: len(keys)]
    if mode == "seeded":
        criterion = Criterion(num_classes=12, num_points=256)
        points: FixedPoints | GridPoints = recorded_points(tensors, batch, matches)
    else:
        criterion = Criterion(num_classes=12, num_points=1280, oversample_ratio=1.0, importance_ratio=1.0)
        points = GridPoints(tensors["grid.points"][0], len(images))

    found = criterion(logits, masks, targets, torch.ones(len(keys)), points)

    for p, suffix in enumerate(suffixes):
        assert found.terms["class"][p].item() == pytest.approx(expected[mode][f"loss_ce{suffix}"], abs=1e-5)
        assert found.terms["mask"][p].item() == pytest.approx(expected[mode][f"loss_mask{suffix}"], abs=1e-5)
        assert found.terms["dice"][p].item() == pytest.approx(expected[mode][f"loss_dice{suffix}"], abs=1e-5)
        for b, (queries, places) in enumerate(matches[p]):
            assert found.queries[p, b, places].tolist() == queries
    if batch == "batch1":
        assert found.total.item() == pytest.approx(expected[f"{mode}_total_weighted"], rel=1e-6)
