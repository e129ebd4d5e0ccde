import math

import torch
from helpers_losses import cell_centres

from ecocli.losses.matcher import assign_queries, matching_costs


def test_matching_costs__one_query_by_hand__adds_three_weighted_terms() -> None:
    # By hand, on the four cell centres of a 2 x 2 mask. Logits 0, so every probability is 1/2: class
    # probability 1/3, cross-entropy ln 2 at each point; the object covers one of four points: dice
    # 1 - (2 x 0.5 + 1) / (2 + 1 + 1) = 1/2.
    costs = matching_costs(
        torch.zeros(1, 1, 1, 3),
        torch.zeros(1, 1, 1, 2, 2),
        torch.tensor([[1]]),
        torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]),
        cell_centres(2, 2)[None, None],
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=7.0,
    )
    torch.testing.assert_close(costs, torch.full((1, 1, 1, 1), -2 / 3 + 5 * math.log(2) + 7 / 2))


def test_matching_costs__extreme_logits__stays_finite() -> None:
    costs = matching_costs(
        torch.tensor([[[[1e4, -1e4]]]]),
        torch.tensor([[[[[1e4, -1e4]]]]]),
        torch.tensor([[0]]),
        torch.tensor([[[[0.0, 1.0]]]]),
        cell_centres(1, 2)[None, None],
        2.0,
        5.0,
        5.0,
    )
    assert costs.isfinite().all()
    assert costs.item() > 4e4


def test_assign_queries__different_images__pairs_each_by_least_total_cost() -> None:
    # By hand. Image 0: object 0 prefers query 0, but 0-1 and 1-0 cost 2 + 2 against 1 + 9. Image 1 has one object.
    costs = torch.tensor([[[[1.0, 2.0], [2.0, 9.0], [8.0, 8.0]], [[4.0, 0.0], [5.0, 0.0], [3.0, 0.0]]]])
    assert assign_queries(costs, (2, 1)).tolist() == [[[1, 0], [2, -1]]]


def test_assign_queries__more_objects_than_queries__leaves_dearest_over() -> None:
    costs = torch.tensor([[[[3.0, 1.0, 2.0], [2.0, 9.0, 5.0]]]])
    assert assign_queries(costs, (3,)).tolist() == [[[1, 0, -1]]]


def test_assign_queries__not_finite__still_assigns_every_object() -> None:
    costs = torch.tensor([[[[torch.nan, torch.inf], [1.0, torch.nan], [torch.nan, -torch.inf]]]])
    assert assign_queries(costs, (2,)).tolist() == [[[1, 2]]]


def test_assign_queries__no_objects__all_padding() -> None:
    assert assign_queries(torch.zeros(2, 1, 3, 1), (0,)).tolist() == [[[-1]], [[-1]]]
