import pytest
import torch
from helpers_training import tiny_config, tiny_model

from ecocli.config.detr import DetrConfig
from ecocli.errors import ArtifactError
from ecocli.model.builders import build_model
from ecocli.model.mask2former import Mask2Former
from ecocli.training.warm_start import start_from

HEAD = "sem_seg_head.predictor.class_embed.weight"
LAYERS = "sem_seg_head.pixel_decoder.transformer.encoder.layers"


def test_start_from__same_architecture__takes_everything() -> None:
    model, weights = tiny_model(0), tiny_model(1).state_dict()
    assert start_from(model, weights, "here") == []
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_start_from__fewer_layers_and_other_classes__takes_the_rest() -> None:
    sizes = {"num_classes": 5, "pixel_decoder": {"encoder": {"layers": 2}}}
    torch.manual_seed(0)
    model = build_model(tiny_config(architecture=sizes, exit_depths=[1, 2]).architecture)
    head = model.state_dict()[HEAD].clone()
    weights = tiny_model(1).state_dict()
    notes = start_from(model, weights, "here")
    assert [note.split(":")[0] for note in notes] == [
        "The class head is drawn anew",
        "The deeper encoder layers are left out",
    ]
    assert torch.equal(model.state_dict()[HEAD], head)
    for name in (f"{LAYERS}.1.linear1.weight", "backbone.stem.conv1.weight"):
        assert torch.equal(model.state_dict()[name], weights[name])


def test_start_from__model_of_another_kind__takes_the_backbone_alone() -> None:
    sizes = {"hidden_dim": 32, "heads": 4, "feedforward_dim": 32, "num_queries": 6, "num_classes": 8}
    torch.manual_seed(0)
    model = build_model(DetrConfig(name="small", backbone=tiny_config().architecture.backbone, **sizes))
    before, weights = {name: t.clone() for name, t in model.state_dict().items()}, tiny_model(1).state_dict()
    (note,) = start_from(model, weights, "here")
    assert note == "The backbone alone is taken: here is of another architecture."
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name] if name.startswith("backbone.") else before[name])
    del weights["backbone.stem.conv1.weight"]
    with pytest.raises(ArtifactError, match=r"do not fit the architecture: backbone\.stem\.conv1\.weight is missing"):
        start_from(model, weights, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", rf"weights of here do not fit the architecture: {LAYERS}\.2\.linear1\.bias is missing"),
        ("shape", r"query_feat\.weight has shape \[9, 32\], expected \[6, 32\]\. Leave out --arch"),
        ("unknown", r"backbone\.extra is unknown"),
        ("many", r"is missing \(and 1 more\)"),
    ],
)
def test_start_from__other_architecture__names_the_first_misfit(change: str, message: str) -> None:
    weights = tiny_model(1).state_dict()
    if change in ("missing", "many"):
        del weights[f"{LAYERS}.2.linear1.bias"]
    if change == "many":
        del weights[f"{LAYERS}.2.linear2.bias"]
    if change == "shape":
        weights["sem_seg_head.predictor.query_feat.weight"] = torch.zeros(9, 32)
    if change == "unknown":
        weights["backbone.extra"] = torch.zeros(1)
    with pytest.raises(ArtifactError, match=message):
        start_from(tiny_model(), weights, "here")


def test_start_from__frozen_and_trained_batch_norm__exchange_statistics() -> None:
    def model_with(norm: str, seed: int) -> Mask2Former:
        torch.manual_seed(seed)
        return build_model(tiny_config(architecture={"backbone": {"norm": norm}}).architecture)

    for ours, theirs in (("sync_bn", "frozen_bn"), ("frozen_bn", "sync_bn")):
        model, weights = model_with(ours, 0), model_with(theirs, 1).state_dict()
        assert start_from(model, weights, "here") == []
        shared = [name for name in model.state_dict() if name in weights]
        assert "backbone.stem.conv1.norm.running_var" in shared
        assert all(torch.equal(model.state_dict()[name], weights[name]) for name in shared)
