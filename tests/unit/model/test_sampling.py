"""Deformable sampling: worked examples, and both ways against each other with their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecocli.model.sampling import SamplingTable, sample_by_level, sample_with_gather_sum, sampling_table

CPU = torch.device("cpu")


def sample_with_grid_sample(value: Tensor, projected: Tensor, table: SamplingTable) -> Tensor:
    return sample_by_level(value, projected, table.shapes, table.centres)


@pytest.mark.parametrize("sample", [sample_with_grid_sample, sample_with_gather_sum])
def test_sample__one_point_between_two_cells__is_their_weighted_mean(sample) -> None:  # type: ignore[no-untyped-def]
    # Worked by hand: one level of 1 x 2 cells with values 1 and 3. The first token samples a quarter of the way to the
    # second cell: 0.75 * 1 + 0.25 * 3 = 1.5. The second token's sample lies half a cell left of the first: 0.5 * 1.
    value = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    projected = torch.tensor([[0.25, 0.0, 7.0], [-1.5, 0.0, -7.0]]).view(1, 2, 3)
    found = sample(value, projected, sampling_table(((1, 2),), 1, 1, CPU))
    torch.testing.assert_close(found, torch.tensor([1.5, 0.5]).view(1, 2, 1))


@pytest.mark.parametrize("sample", [sample_with_grid_sample, sample_with_gather_sum])
def test_sample__two_levels_and_points__weights_are_a_softmax_over_both(sample) -> None:  # type: ignore[no-untyped-def]
    # Worked by hand: level 0 is one cell (value 8), level 1 is 2 x 1 cells (values 1 and 5); all tokens sample their
    # own place, so the first token, centred between the cells of level 1, sees 8, 8, 3, 3. The logits give the four
    # samples 1/8, 1/8, 2/8, 4/8: 1 + 1 + 0.75 + 1.5 = 4.25.
    value = torch.tensor([8.0, 1.0, 5.0]).view(1, 3, 1, 1)
    projected = torch.zeros(1, 3, 12)
    projected[0, 0, 8:] = torch.tensor([1.0, 1.0, 2.0, 4.0]).log()
    found = sample(value, projected, sampling_table(((1, 1), (2, 1)), 1, 2, CPU))
    assert found[0, 0, 0].item() == pytest.approx(4.25)


def run(sample, value: Tensor, projected: Tensor, *table) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
    value, projected = value.clone().requires_grad_(), projected.clone().requires_grad_()
    found = sample(value, projected, sampling_table(*table))
    # Any fixed weights that tell the entries apart.
    upstream = torch.linspace(-1, 2, found.numel()).view(found.shape)
    found.backward(upstream)
    assert value.grad is not None
    assert projected.grad is not None
    return found.detach(), value.grad, projected.grad


@settings(max_examples=40)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3),
    batch=st.integers(1, 3),
    spread=st.sampled_from([0.0, 0.7, 4.0, 1e6]),
    seed=st.integers(0, 10**6),
)
def test_sample__any_sizes_and_places__both_ways_and_their_gradients_agree(
    shapes: list[tuple[int, int]], batch: int, spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in shapes)
    samples = 2 * len(shapes) * 4
    value = torch.randn(batch, tokens, 2, 3, generator=generator)
    offsets = torch.randn(batch, tokens, 2 * samples, generator=generator) * spread
    # Away from cell centres, where the gradient jumps and rounding chooses the side.
    offsets += 0.013
    projected = torch.cat((offsets, torch.randn(batch, tokens, samples, generator=generator)), dim=-1)
    arguments = (value, projected, tuple(shapes), 2, 4, CPU)
    expected, found = run(sample_with_grid_sample, *arguments), run(sample_with_gather_sum, *arguments)
    # The tokens' and the projections' gradients are sums of many rounded terms.
    for name, a, b, tolerance in zip(
        ("value", "of value", "of projected"), found, expected, (2e-5, 1e-4, 1e-3), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_sample_with_gather_sum__not_a_number__reaches_the_result() -> None:
    # A diverged model must show as NaN in its loss, not as an index out of range.
    projected = torch.full((1, 4, 12), torch.nan)
    found = sample_with_gather_sum(torch.ones(1, 4, 2, 3), projected, sampling_table(((2, 2),), 2, 2, CPU))
    assert found.isnan().all()


def test_sampling_table__two_by_two_with_one_cell__centres_count_cells_of_each_level() -> None:
    # Worked by hand: the centre of a level's own cell (r, c) is (c, r) there; on the level of one cell the four cells
    # of the finer level lie a quarter cell to either side of its centre.
    table = sampling_table(((1, 1), (2, 2)), 1, 1, CPU)
    x, y = table.centres[:, :2], table.centres[:, 2:]
    assert x.tolist() == [[0, 0.5], [-0.25, 0], [0.25, 1], [-0.25, 0], [0.25, 1]]
    assert y.tolist() == [[0, 0.5], [-0.25, 0], [-0.25, 0], [0.25, 1], [0.25, 1]]
