"""Recognising foreign weights and fitting them into a model."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_weights import RESNET, SWIN, random_model
from torch import Tensor

from ecocli.config.architecture import ArchitectureConfig, DeformableEncoderConfig
from ecocli.errors import DataError
from ecocli.model.layers import FrozenBatchNorm2d
from ecocli.weights.export import to_pickle, write_original
from ecocli.weights.loading import fit_weights, load_initial_weights, recognise, shorten
from ecocli.weights.mappings import CAFFE2_RESNET, TORCHVISION_RESNET
from ecocli.weights.renaming import from_original

State = dict[str, Tensor]


def state_of(architecture: ArchitectureConfig, seed: int = 1) -> State:
    return dict(random_model(architecture, seed).state_dict())


def backbone_of(architecture: ArchitectureConfig) -> State:
    return dict(random_model(architecture, 1).backbone.state_dict())


def assert_loaded(model_state: State, expected: State, names: tuple[str, ...]) -> None:
    for name in names:
        torch.testing.assert_close(model_state[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", [SWIN, RESNET], ids=["swin", "resnet"])
@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
def test_load_initial_weights__original_file__everything(
    architecture: ArchitectureConfig, suffix: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    source = state_of(architecture)
    original = write_original(architecture, source)
    path = tmp_path / f"model{suffix}"
    if suffix == ".pkl":
        path.write_bytes(to_pickle(original))
    elif suffix == ".pth":
        torch.save({"model": original, "iteration": 3}, path)
    else:
        save_file(original, path)
    model = random_model(architecture, 2)
    report = load_initial_weights(model, path)
    assert (report.missing, report.mismatched, report.ignored) == ((), (), ("criterion.empty_weight",))
    assert set(report.loaded) == set(source)
    assert_loaded(dict(model.state_dict()), source, report.loaded)


def test_load_initial_weights__pickled_torch_tensors__everything(tmp_path: Path) -> None:
    # Mask2Former's own Swin converter pickles tensors outside torch.save, without a Mask2Former around them.
    source = backbone_of(SWIN)
    path = tmp_path / "swin.pkl"
    path.write_bytes(pickle.dumps({"model": source, "__author__": "third_party", "matching_heuristics": True}))
    model = random_model(SWIN, 2)
    report = load_initial_weights(model, path)
    assert report.source == "Swin backbone"
    assert len(report.loaded) == len(source)


def test_load_initial_weights__fewer_encoder_layers__first_ones_and_a_note(tmp_path: Path) -> None:
    source = state_of(RESNET)
    path = tmp_path / "model.pth"
    torch.save(write_original(RESNET, source), path)
    pixel_decoder = RESNET.pixel_decoder.model_copy(
        update={"encoder": DeformableEncoderConfig(layers=2, feedforward_dim=32)}
    )
    model = random_model(RESNET.model_copy(update={"pixel_decoder": pixel_decoder}), 2)
    report = load_initial_weights(model, path)
    assert set(report.loaded) == set(model.state_dict())
    assert_loaded(dict(model.state_dict()), source, report.loaded)
    assert set(report.deeper) == set(source) - set(model.state_dict())
    layer = "sem_seg_head.pixel_decoder.transformer.encoder.layers.2."
    assert all(name.startswith(layer) for name in report.deeper)
    assert f"{len(report.deeper)} left out because the model has fewer encoder layers: {layer}" in report.summary()


def test_recognise__older_names__current_ones() -> None:
    # Origin: the version 2 upgrades of the original's state-dict loading.
    state = {
        "sem_seg_head.predictor.static_query.weight": torch.ones(1),
        "sem_seg_head.adapter_1.weight": torch.ones(1),
        "sem_seg_head.pixel_decoder.layer_1.weight": torch.ones(1),
        "pixel_mean": torch.ones(3),
    }
    found = recognise(state, "file")
    assert set(found.tensors) == {
        "sem_seg_head.predictor.query_feat.weight",
        "sem_seg_head.pixel_decoder.adapter_1.weight",
        "sem_seg_head.pixel_decoder.layer_1.weight",
    }
    assert found.ignored == ("pixel_mean",)


def test_load_initial_weights__other_class_count__lists_the_class_layer_and_keeps_it(tmp_path: Path) -> None:
    source = state_of(SWIN.model_copy(update={"num_classes": 9}))
    torch.save(source, tmp_path / "a.pth")
    model = random_model(SWIN, 2)
    before = model.state_dict()["sem_seg_head.predictor.class_embed.weight"].clone()
    report = load_initial_weights(model, tmp_path / "a.pth")
    assert [str(item) for item in report.mismatched] == [
        "sem_seg_head.predictor.class_embed.weight [10, 32], expected [5, 32]",
        "sem_seg_head.predictor.class_embed.bias [10], expected [5]",
    ]
    torch.testing.assert_close(model.state_dict()["sem_seg_head.predictor.class_embed.weight"], before)
    assert "2 kept as they were because the shapes differ" in report.summary()


def wrap(source: State, prefix: str, beside: State) -> State:
    return {prefix + name: tensor for name, tensor in source.items()} | beside


ONE = torch.ones(1)


@pytest.mark.parametrize(
    "prefix,beside,source",
    [
        ("", {"norm.weight": ONE, "head.weight": ONE, "layers.0.blocks.1.attn_mask": ONE}, "Swin backbone"),
        (
            "encoder.",
            {"encoder_k.patch_embed.proj.weight": ONE, "projector.linear1.weight": ONE, "queue_ptr": ONE},
            "Swin backbone under encoder.",
        ),
        ("backbone.", {"head.mlp.0.weight": ONE}, "Swin backbone under backbone."),
        ("module.backbone.", {"module.head.mlp.0.weight": ONE}, "Swin backbone under module.backbone."),
    ],
    ids=["Microsoft", "MoBY", "DINO teacher", "DINO student"],
)
def test_load_initial_weights__swin_backbones__backbone_filled(
    prefix: str, beside: State, source: str, tmp_path: Path
) -> None:
    # Such files have no norm after each stage; those stay as they are and are listed.
    backbone = {n: t for n, t in backbone_of(SWIN).items() if not n.startswith("norm")}
    torch.save({"model": wrap(backbone, prefix, beside)}, tmp_path / "a.pth")
    model = random_model(SWIN, 2)
    report = load_initial_weights(model, tmp_path / "a.pth")
    assert report.source == source
    assert set(report.loaded) == {f"backbone.{name}" for name in backbone}
    assert set(report.ignored) == set(beside)
    assert {name for name in report.missing if name.startswith("backbone.")} == {
        f"backbone.norm{stage}.{p}" for stage in range(4) for p in ("weight", "bias")
    }
    assert_loaded(dict(model.backbone.state_dict()), backbone, tuple(backbone))


@pytest.mark.parametrize(
    "prefix,beside",
    [("", {"fc.weight": ONE, "fc.bias": ONE}), ("module.", {}), ("backbone.", {"head.last_layer.weight_g": ONE})],
    ids=["torchvision", "data parallel", "DINO"],
)
def test_load_initial_weights__torchvision_names__backbone_filled(prefix: str, beside: State, tmp_path: Path) -> None:
    ours = backbone_of(RESNET)
    theirs, unknown = from_original(ours, TORCHVISION_RESNET)
    assert unknown == ()
    counters = {n.replace("running_mean", "num_batches_tracked"): ONE.long() for n in theirs if "running_mean" in n}
    torch.save(wrap(theirs | counters, prefix, beside), tmp_path / "a.pth")
    model = random_model(RESNET, 2)
    report = load_initial_weights(model, tmp_path / "a.pth")
    assert set(report.loaded) == {f"backbone.{name}" for name in ours}
    assert_loaded(dict(model.backbone.state_dict()), ours, tuple(ours))


def test_load_initial_weights__detectron2_resnet__backbone_filled(tmp_path: Path) -> None:
    ours = backbone_of(RESNET)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(to_pickle(ours | {"stem.fc.weight": ONE, "stem.fc.bias": ONE}))
    model = random_model(RESNET, 2)
    report = load_initial_weights(model, path)
    assert report.source == "detectron2 ResNet backbone"
    assert report.ignored == ("stem.fc.weight", "stem.fc.bias")
    assert_loaded(dict(model.backbone.state_dict()), ours, tuple(ours))


@pytest.mark.parametrize(
    "state,message",
    [
        ({"some.weight": ONE}, "no checkpoint that is known here: its tensors are some"),
        (
            {"model.transformer_module.level_embed.weight": ONE, "model.extra.weight": ONE},
            "looks like a Hugging Face Mask2Former, but holds unexpected tensors: model.extra.weight",
        ),
        (
            {"patch_embed.proj.weight": ONE, "encoder.odd": ONE, "queue": ONE, "mask_token": ONE},
            None,
        ),
        ({"encoder.patch_embed.proj.weight": ONE, "mask_token": ONE}, "unexpected tensors: mask_token"),
        ({"conv1.weight": ONE, "layer9.odd": ONE}, "unexpected tensors: layer9.odd"),
    ],
)
def test_recognise__unknown_tensors__refused(state: State, message: str | None) -> None:
    if message is None:
        # Without a table every name passes here; the model decides what fits.
        assert len(recognise(state, "file").tensors) == len(state)
        return
    with pytest.raises(DataError, match=message):
        recognise(state, "file")


@pytest.mark.parametrize(
    "source,message",
    [
        (RESNET, "of another model: it holds backbone.stem.conv1.weight"),
        (
            SWIN.model_copy(update={"backbone": SWIN.backbone.model_copy(update={"depths": (1, 1, 1, 1)})}),
            r"of another model: for this backbone it lacks backbone\.layers\.2\.blocks\.1\.norm1\.weight.* more",
        ),
        (
            SWIN.model_copy(update={"backbone": SWIN.backbone.model_copy(update={"window_size": 3})}),
            r"it has other shapes: .*relative_position_bias_table \[25, 1\], expected \[49, 1\]",
        ),
        (
            SWIN.model_copy(
                update={
                    "pixel_decoder": SWIN.pixel_decoder.model_copy(
                        update={"encoder": DeformableEncoderConfig(layers=4)}
                    )
                }
            ),
            r"it holds sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.3",
        ),
    ],
    ids=["other backbone", "shallower", "other window", "deeper encoder"],
)
def test_fit_weights__another_model__refused_and_model_untouched(source: ArchitectureConfig, message: str) -> None:
    model = random_model(SWIN, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DataError, match=message):
        fit_weights(model, recognise(state_of(source), "file"), "file")
    assert_loaded(dict(model.state_dict()), before, tuple(before))


def test_load_report_summary__everything_loaded__one_sentence() -> None:
    report = fit_weights(random_model(SWIN, 2), recognise(state_of(SWIN), "file"), "file")
    assert report.summary() == f"Mask2Former with the original names: {len(report.loaded)} tensors loaded."


def test_shorten__many_names__first_five_and_a_count() -> None:
    assert shorten([*"abcdefg"]) == "a, b, c, d, e and 2 more"


def test_fit_weights__other_constant__refused() -> None:
    name = "backbone.layers.0.blocks.0.attn.relative_position_index"
    state = state_of(SWIN)
    with pytest.raises(DataError, match="is not the one of this window size"):
        fit_weights(random_model(SWIN, 2), recognise(state | {name: state[name].flip(0)}, "file"), "file")


def test_fit_weights__not_a_number__refused() -> None:
    state = state_of(SWIN)
    broken = state["backbone.norm1.bias"].clone()
    broken[3] = float("nan")
    with pytest.raises(DataError, match=r"values in backbone\.norm1\.bias that are not finite"):
        fit_weights(random_model(SWIN, 2), recognise(state | {"backbone.norm1.bias": broken}, "file"), "file")


def test_load_initial_weights__msra_resnet__computes_what_its_own_network_does(tmp_path: Path) -> None:
    # The file's own network, from detectron2's description: blue first, means taken off, no deviation, norms that are
    # scale and shift alone.
    rows = dict(CAFFE2_RESNET)
    backbone = RESNET.backbone.model_copy(update={"stride_in_1x1": True})
    architecture = RESNET.model_copy(update={"backbone": backbone})
    theirs = random_model(architecture, 3).eval()
    for module in theirs.backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1.0 - module.eps)
    state = {n: t for n, t in theirs.backbone.state_dict().items() if "running" not in n}
    blobs, unknown = from_original(state, tuple(rows.items()))
    assert not unknown
    path = tmp_path / "R-50.pkl"
    arrays = {name: tensor.numpy() for name, tensor in blobs.items()}
    arrays |= {"fc1000_w": np.zeros((2, 2), np.float32), "conv1_w_momentum": np.zeros(2, np.float32)}
    path.write_bytes(pickle.dumps({"blobs": arrays}))
    model = random_model(architecture, 4).eval()
    load_initial_weights(model, path)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.pixel_mean, model.pixel_std))
    with torch.no_grad():
        expected = theirs.backbone((pixels - mean).flip(1))
        found = model.backbone((pixels - mean) / std)
    for name, level in expected.items():
        torch.testing.assert_close(found[name], level, rtol=1e-4, atol=1e-4 * float(level.abs().max()))


def test_load_initial_weights__msra_into_strides_of_3x3__refused(tmp_path: Path) -> None:
    state = {n: t for n, t in backbone_of(RESNET).items() if "running" not in n}
    blobs, _ = from_original(state, CAFFE2_RESNET)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in blobs.items()}))
    with pytest.raises(DataError, match=r"stride_in_1x1=true"):
        load_initial_weights(random_model(RESNET, 2), path)
