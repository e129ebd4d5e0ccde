"""Swin backbone: windows, shift penalty, padding, and the recorded original at every stage."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ecocli.model.swin import SwinBlock, SwinTransformer
from ecocli.model.windows import merge_windows, partition_windows, relative_position_index, shift_mask

PUBLISHED: dict[str, dict[str, Any]] = {
    "coco_swin_t": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "window_size": 7},
    "coco_swin_s": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24), "window_size": 7},
    "coco_swin_b_384": {
        "embed_dim": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
        "window_size": 12,
    },
}


def small_swin(**changes: Any) -> SwinTransformer:
    torch.manual_seed(3)
    settings: dict[str, Any] = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
    return SwinTransformer(**(settings | changes))


def test_forward__recorded_original__every_stage_agrees(shared_dir: Path) -> None:
    # Origin: golden_swin_small_cfg, from the original code; grids of 4 x 5 and 8 x 10 need padding.
    recorded = load_file(shared_dir / "golden" / "golden_swin_small_cfg.safetensors")
    prefix = "state.backbone."
    state = {key.removeprefix(prefix): value for key, value in recorded.items() if key.startswith(prefix)}
    backbone = SwinTransformer(embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=7).eval()
    backbone.load_state_dict(state)
    with torch.no_grad():
        features = backbone(recorded["a.normalized"][None])
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for name, feature in features.items():
        torch.testing.assert_close(feature, recorded[f"a.backbone.{name}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_state_dict__published_size__recorded_keys_shapes_and_dtypes(name: str, shared_dir: Path) -> None:
    # Origin: statedict_NAME.json of the original code.
    recorded = json.loads((shared_dir / "golden" / f"statedict_{name}.json").read_text())
    expected = [
        (entry["key"].removeprefix("backbone."), tuple(entry["shape"]), entry["dtype"])
        for entry in recorded["entries"]
        if entry["key"].startswith("backbone.")
    ]
    with torch.device("meta"):
        backbone = SwinTransformer(**PUBLISHED[name])
    state = backbone.state_dict()
    assert [(k, tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in state.items()] == expected
    assert sum(p.numel() for p in backbone.parameters()) == recorded["parameters"]["backbone"]


def test_relative_position_index__window_2__hand_worked() -> None:
    # Worked by hand: offsets (dy, dx) in -1..1 are numbered row-major from (-1, -1) = 0; (0, 0) = 4.
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_position_index(2).tolist() == expected


def test_partition_windows__two_images__row_major_and_undone_by_merge() -> None:
    grid = torch.arange(2 * 4 * 6 * 3, dtype=torch.float32).view(2, 4, 6, 3)
    windows = partition_windows(grid, 2)
    assert windows.shape == (12, 4, 3)
    # The second window of the first image starts at row 0, column 2.
    torch.testing.assert_close(windows[1, 0], grid[0, 0, 2])
    torch.testing.assert_close(windows[6, 3], grid[1, 1, 1])
    torch.testing.assert_close(merge_windows(windows, 2, 4, 6), grid)


def test_shift_mask__four_by_four__blocks_across_the_seams_only() -> None:
    # Worked by hand: window 2, shift 1. The first window is whole, the last mixes four regions.
    blocked = shift_mask(4, 4, 2, 1, torch.device("cpu"))
    assert blocked.shape == (4, 4, 4)
    assert blocked[0].eq(0).all()
    assert blocked[1].tolist()[0] == [0, -100, 0, -100]
    assert blocked[2].tolist()[0] == [0, 0, -100, -100]
    assert blocked[3].tolist()[0] == [0, -100, -100, -100]


def test_forward__odd_size__rounds_every_stage_up() -> None:
    backbone = small_swin().eval()
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 45, 30))
    # ceil(45 / 4) = 12 by ceil(30 / 4) = 8, then halved.
    assert features["res2"].shape == (2, 8, 12, 8)
    assert features["res3"].shape == (2, 16, 6, 4)
    assert backbone.channels == {"res2": 8, "res3": 16}


def test_forward__batch_mates__do_not_change_a_result() -> None:
    backbone = small_swin().eval()
    images = torch.randn(3, 3, 40, 52, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together, alone = backbone(images), backbone(images[1:2])
    for name in together:
        torch.testing.assert_close(together[name][1:2], alone[name], atol=1e-5, rtol=0)


def test_forward__training_with_drop_path__drops_whole_branches_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = SwinBlock(4, 1, 2, shift=1, mlp_ratio=1.0, qkv_bias=True, drop_path=0.5)
    grid = torch.ones(400, 2, 2, 4)
    dropped = block.train()._drop_path(grid)
    # Each image keeps its branch doubled or loses it; with 400 images the mean is 1 within 5 standard errors.
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert all(image.unique().numel() == 1 for image in dropped)
    assert abs(dropped.mean().item() - 1.0) < 0.25
    assert block.eval()._drop_path(grid) is grid


def test_swin_transformer__drop_path_rate__rises_linearly_over_all_blocks() -> None:
    backbone = small_swin(drop_path_rate=0.3)
    rates = [module.drop_path for module in backbone.modules() if isinstance(module, SwinBlock)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_seed_drop_path__many_images__each_branch_kept_at_its_rate_and_independently() -> None:
    backbone = small_swin(drop_path_rate=0.6)
    backbone.seed_drop_path(range(4000))
    assert backbone._kept is not None
    kept = backbone._kept.double()
    # Law: rates 0, 0.2, 0.4, 0.6 (rising linearly); 5 standard errors of 4000 draws are at most 0.04.
    wanted = torch.tensor([1.0, 0.8, 0.6, 0.4], dtype=torch.float64)[:, None].expand(4, 2)
    torch.testing.assert_close(kept.mean(dim=2), wanted, atol=0.04, rtol=0)
    branches, chances = kept.flatten(0, 1), wanted.flatten()
    together = branches @ branches.T / 4000
    independent = chances[:, None] * chances[None, :]
    off_diagonal = ~torch.eye(8, dtype=torch.bool)
    torch.testing.assert_close(together[off_diagonal], independent[off_diagonal], atol=0.04, rtol=0)


def test_seed_drop_path__other_batch_mates_and_global_generator__same_features() -> None:
    backbone = small_swin(drop_path_rate=0.6).train()
    backbone.seed_drop_path([7, 8, 9, 10])
    together = backbone(pictures(4))
    torch.manual_seed(99)
    for rows, seeds in ((slice(0, 2), [7, 8]), (slice(2, 4), [9, 10]), (slice(3, 4), [10])):
        backbone.seed_drop_path(seeds)
        for name, feature in backbone(pictures(4)[rows]).items():
            torch.testing.assert_close(feature, together[name][rows], atol=1e-5, rtol=0)
    # The seeds matter: some of these images lose other branches.
    backbone.seed_drop_path([1, 2, 3, 4])
    assert not torch.allclose(backbone(pictures(4))["res3"], together["res3"], atol=1e-2)


def test_seed_drop_path__none__global_generator_again() -> None:
    backbone = small_swin(drop_path_rate=0.6).train()
    found = []
    for seeds, state in (([1, 2], 5), (None, 5), (None, 5), (None, 6)):
        backbone.seed_drop_path(seeds)
        torch.manual_seed(state)
        found.append(backbone(pictures(2))["res3"])
    seeded, drawn, again, other = found
    torch.testing.assert_close(again, drawn)
    assert not torch.allclose(seeded, drawn, atol=1e-2)
    assert not torch.allclose(other, drawn, atol=1e-2)


def test_seed_drop_path__activations_recomputed__same_gradients() -> None:
    gradients = []
    for recomputed in (False, True):
        backbone = small_swin(drop_path_rate=0.6).train()
        backbone.seed_drop_path([1, 2, 3])
        features = checkpoint(backbone, pictures(3), use_reentrant=False) if recomputed else backbone(pictures(3))
        # The recomputation finds the global generator as it was; what changes it must not matter.
        torch.manual_seed(4)
        sum(feature.square().sum() for feature in features.values()).backward()
        gradients.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0])


def test_forward__seeded_for_another_batch__refused_in_training_only() -> None:
    backbone = small_swin(drop_path_rate=0.6)
    backbone.seed_drop_path([1, 2])
    backbone.eval()(pictures(3))
    with pytest.raises(ValueError, match="stochastic depth was seeded for 2 images, expected 3"):
        backbone.train()(pictures(3))


def test_forward__backward__every_parameter_gets_a_gradient() -> None:
    backbone = small_swin().train()
    sum(feature.square().sum() for feature in backbone(torch.randn(2, 3, 33, 47)).values()).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []
