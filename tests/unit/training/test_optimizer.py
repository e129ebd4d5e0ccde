import pytest
import torch
from helpers_training import tiny_model
from torch import nn

from ecocli.config.any_architecture import ALL_ARCHITECTURES
from ecocli.model.builders import build_model
from ecocli.training.optimizer import (
    ParameterGroup,
    build_optimizers,
    group_parameters,
    hidden_matrices,
    set_learning_rate,
)


@pytest.fixture(scope="module")
def groups() -> list[ParameterGroup]:
    return group_parameters(tiny_model(), weight_decay=0.05, backbone_lr_multiplier=0.1)


@pytest.mark.parametrize(
    ("name", "multiplier", "decay"),
    [
        # Origin: Mask2Former's rule; the pixel decoder's level_embed is a plain parameter, the other an embedding.
        ("backbone.stem.conv1.weight", 0.1, 0.05),
        ("backbone.stem.conv1.norm.weight", 0.1, 0.0),
        ("sem_seg_head.pixel_decoder.input_proj.0.1.bias", 1.0, 0.0),
        ("sem_seg_head.pixel_decoder.input_proj.0.0.bias", 1.0, 0.05),
        ("sem_seg_head.pixel_decoder.transformer.level_embed", 1.0, 0.05),
        ("sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm1.weight", 1.0, 0.0),
        ("sem_seg_head.predictor.level_embed.weight", 1.0, 0.0),
        ("sem_seg_head.predictor.query_feat.weight", 1.0, 0.0),
        ("sem_seg_head.predictor.class_embed.weight", 1.0, 0.05),
    ],
)
def test_group_parameters__mask2former__follows_its_recipe(
    groups: list[ParameterGroup], name: str, multiplier: float, decay: float
) -> None:
    owners = [group for group in groups if name in group.names]
    assert [(group.lr_multiplier, group.weight_decay) for group in owners] == [(multiplier, decay)]


def test_group_parameters__mask2former__every_parameter_once(groups: list[ParameterGroup]) -> None:
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(name for name, _ in tiny_model().named_parameters())
    assert len(groups) == 4


def test_group_parameters__tied_frozen_and_position_table__once_never_and_undecayed() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.second = nn.Linear(2, 2)
            self.second.weight = self.first.weight
            self.second.bias.requires_grad_(False)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(3))

    found = {group.weight_decay: group.names for group in group_parameters(Small(), 0.05, 0.1)}
    assert found == {0.0: ("relative_position_bias_table",), 0.05: ("first.weight", "first.bias")}


def test_set_learning_rate__groups__scales_by_multiplier(groups: list[ParameterGroup]) -> None:
    optimizers = build_optimizers(groups)
    set_learning_rate(optimizers, 2.0)
    found = {(group["lr_multiplier"], group["lr"]) for optimizer in optimizers for group in optimizer.param_groups}
    assert found == {(0.1, 0.2), (1.0, 2.0)}


def test_build_optimizer__one_step__equals_adamw_by_hand() -> None:
    # By hand: the first AdamW step moves every weight by lr against the sign of its gradient, after the decay.
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    (optimizer,) = build_optimizers([ParameterGroup(("w",), (weight,), 0.5, 0.1)])
    set_learning_rate([optimizer], 0.2)
    weight.grad = torch.tensor([3.0, -4.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.99 - 0.1, -1.98 + 0.1]), rtol=1e-5, atol=1e-6)


def test_hidden_matrices__mask2former__hold_layers_and_neither_head_nor_embeddings() -> None:
    model = tiny_model()
    matrices = {id(matrix) for matrix in hidden_matrices(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in matrices}
    encoder, predictor = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0", "sem_seg_head.predictor"
    assert {f"{encoder}.linear1.weight", f"{predictor}.mask_embed.layers.2.weight"} <= names
    assert f"{predictor}.transformer_self_attention_layers.0.self_attn.in_proj_weight" in names
    assert names.isdisjoint({f"{predictor}.{name}.weight" for name in ("class_embed", "query_feat", "level_embed")})
    assert all(model.get_parameter(name).ndim == 2 for name in names)


@pytest.mark.parametrize("name", ["lite-m2f-shapes", "rt-m2f-shapes", "detr-shapes", "maskformer-r50"])
def test_group_parameters__muon_of_other_models__takes_every_parameter_once_and_no_class_head(name: str) -> None:
    with torch.device("meta"):
        model = build_model(ALL_ARCHITECTURES[name])
    groups = group_parameters(model, 0.05, 0.1, hidden_matrices(model))
    trained = sorted(n for n, parameter in model.named_parameters() if parameter.requires_grad)
    assert sorted(n for group in groups for n in group.names) == trained
    matrices = [parameter for group in groups if group.muon for parameter in group.parameters]
    assert matrices
    assert all(parameter is not model.class_head.weight for parameter in matrices)


def test_build_optimizers__muon__moves_matrices_by_an_orthogonal_step_of_adamw_size() -> None:
    # Origin: Moonlight (arXiv 2502.16982, section 2.2): the step's root mean square is 0.2 times the rate.
    torch.manual_seed(0)
    model = tiny_model()
    groups = group_parameters(model, 0.05, 0.1, hidden_matrices(model))
    assert sorted(name for group in groups for name in group.names) == sorted(n for n, _ in model.named_parameters())
    optimizers = build_optimizers(groups)
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["AdamW", "Muon"]
    set_learning_rate(optimizers, 1e-2)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        optimizer.step()
    name = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn.value_proj.weight"
    step = model.get_parameter(name).detach() - before[name] * (1 - 1e-2 * 0.05)
    assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.2)
    spread = torch.linalg.svdvals(step)
    assert spread.max() / spread.min() < 3.0  # singular values of a random matrix of this size span far more
