import torch
from helpers_losses import cell_centres, read_bilinear

from ecocli.losses.points import SeededPoints, choose_uncertain_points, sample_points


def test_sample_points__two_masks_two_channels__equals_written_out_interpolation() -> None:
    # Origin: read_bilinear, the four neighbours written out; points beyond the outer pixel centres included.
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(2, 3, 5, 4, generator=generator)
    points = torch.rand(2, 50, 2, generator=generator)
    points[0, 0] = torch.tensor([0.0, 1.0])
    found = sample_points(masks, points)
    for n in range(2):
        for c in range(3):
            torch.testing.assert_close(found[n, c], read_bilinear(masks[n, c], points[n]), rtol=1e-5, atol=1e-6)


def test_sample_points__cell_centres__reads_pixels() -> None:
    mask = torch.arange(12.0).view(1, 1, 3, 4)
    torch.testing.assert_close(sample_points(mask, cell_centres(3, 4)[None])[0, 0], torch.arange(12.0))


def test_sample_points__no_masks__passes_gradient() -> None:
    masks = torch.randn(0, 1, 4, 4, requires_grad=True)
    sampled = sample_points(masks, torch.rand(0, 7, 2))
    sampled.sum().backward()
    assert sampled.shape == (0, 1, 7)
    assert masks.grad is not None


def test_choose_uncertain_points__known_logits__keeps_those_nearest_zero() -> None:
    # By hand: the logits at the four cell centres of each mask are given; the two nearest to 0 stay.
    logits = torch.tensor([[[-5.0, 0.5], [4.0, -0.1]], [[0.2, -3.0], [-0.3, 9.0]]])
    centres = cell_centres(2, 2)
    kept = choose_uncertain_points(logits, centres.expand(2, -1, -1), 2)
    assert {tuple(point) for point in kept[0].tolist()} == {(0.75, 0.25), (0.75, 0.75)}
    assert {tuple(point) for point in kept[1].tolist()} == {(0.25, 0.25), (0.25, 0.75)}


def test_seeded_points__image_in_other_batch__draws_the_same() -> None:
    together, alone = SeededPoints([5, 6]), SeededPoints([6])
    assert torch.equal(together.matching_points(4, 9)[:, 1], alone.matching_points(4, 9)[:, 0])
    assert torch.equal(together.object_points(4, [3, 2], 7)[:, 3:], alone.object_points(4, [2], 7))
    assert torch.equal(together.object_points(4, [3, 2], 2)[:, 3:], alone.object_points(4, [2], 2))


def test_seeded_points__consecutive_draws__differ_and_lie_in_unit_square() -> None:
    source = SeededPoints([5])
    first, second = source.object_points(1, [2], 500), source.object_points(1, [2], 500)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0, 0], first[0, 1])
    assert 0.0 <= first.min() < 0.01
    assert 0.99 < first.max() < 1.0
