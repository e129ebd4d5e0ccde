"""The name tables and the engine that applies them."""

import pytest
import torch

from ecocli.config.architecture import ARCHITECTURES
from ecocli.model.builders import build_model
from ecocli.weights import mappings
from ecocli.weights.renaming import from_original, matches_any, to_original


def test_to_original__hand_written_rows__renames_and_joins() -> None:
    rows: mappings.Rows = (("a.{i}.{p}", "x{i}.{p}"), ("qkv.{l}", ("q{l}", "k{l}", "v{l}")))
    state = {
        "x3.bias": torch.tensor([1.0]),
        "q0": torch.tensor([1.0]),
        "k0": torch.tensor([2.0]),
        "v0": torch.tensor([3.0]),
        "q1": torch.tensor([4.0]),
        "y3.bias": torch.tensor([5.0]),
        "x3.other": torch.tensor([6.0]),
    }
    renamed, unknown = to_original(state, rows)
    assert {name: tensor.tolist() for name, tensor in renamed.items()} == {"a.3.bias": [1], "qkv.0": [1, 2, 3]}
    # q1 lacks its key and value.
    assert unknown == ("q1", "y3.bias", "x3.other")


def test_from_original__fused_tensor__cut_into_equal_parts() -> None:
    rows: mappings.Rows = (("qkv.{l}", ("q{l}", "k{l}", "v{l}")),)
    renamed, unknown = from_original({"qkv.2": torch.arange(6.0), "other": torch.ones(1)}, rows)
    assert {name: tensor.tolist() for name, tensor in renamed.items()} == {"q2": [0, 1], "k2": [2, 3], "v2": [4, 5]}
    assert unknown == ("other",)


@pytest.mark.parametrize("name", ["m2f-r50", "m2f-swin-t"])
def test_hf_table__published_size__covers_every_entry_both_ways(name: str) -> None:
    with torch.device("meta"):
        state = build_model(ARCHITECTURES[name]).state_dict()
    theirs, unknown = from_original(state, mappings.HF_MASK2FORMER)
    assert all(entry.endswith("relative_position_index") for entry in unknown)
    back, left = to_original(theirs, mappings.HF_MASK2FORMER)
    assert left == ()
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in state.items() if n not in unknown}


def test_torchvision_table__resnet_50__covers_the_backbone() -> None:
    with torch.device("meta"):
        state = build_model(ARCHITECTURES["m2f-r50"]).backbone.state_dict()
    theirs, unknown = from_original(state, mappings.TORCHVISION_RESNET)
    assert unknown == ()
    # torchvision's ResNet-50 has 161 parameters and 106 statistics; without fc's 2 parameters that is 265.
    assert len(theirs) == 265
    # Names as torchvision's published resnet50 file has them.
    for expected in (
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias",
        "layer3.5.conv2.weight",
        "layer4.2.bn3.running_mean",
    ):
        assert expected in theirs


def test_matches_any__patterns__shell_style_on_the_whole_name() -> None:
    assert matches_any("head.mlp.0.weight", ("head.*",))
    assert matches_any("norm2.weight", ("norm[0-3].*",))
    assert not matches_any("norm.weight", ("norm[0-3].*",))
    assert not matches_any("my.head.weight", ("head.*",))
