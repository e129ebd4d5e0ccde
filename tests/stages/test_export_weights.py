"""Exporting a parent: what is written where, and what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_store import parent_manifest
from helpers_weights import RESNET, SWIN, random_model

from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import save_tensors
from ecocli.config.any_architecture import ALL_ARCHITECTURES, AnyArchitecture
from ecocli.config.architecture import ArchitectureConfig, ResNetConfig
from ecocli.config.category import CategoryConfig
from ecocli.config.dataset import ResizeConfig
from ecocli.config.detr import DetrConfig
from ecocli.config.export_weights import ExportWeightsConfig
from ecocli.errors import UsageError
from ecocli.runtime.context import Runtime
from ecocli.stages.export_weights import plan, run
from ecocli.weights.files import load_state
from ecocli.weights.loading import load_initial_weights


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put_parent(store: Store, architecture: AnyArchitecture, weights: bytes | None = None) -> str:
    manifest = parent_manifest(
        architecture,
        (1, 2, 3) if weights is None else (architecture.exits.deepest,),
        tuple(
            CategoryConfig(id=index, name=f"class-{index}", supercategory="", is_thing=True, color=(0, 0, 0))
            for index in range(4)
        ),
    )
    if weights is None:
        weights = save_tensors(random_model(architecture).state_dict())
    return store.put(manifest, {"model.safetensors": weights}).digest


def export(store: Store, out: Path, architecture: ArchitectureConfig = SWIN, **settings: Any) -> Path:
    config = ExportWeightsConfig(out=str(out), **settings)
    return run(config, {"parent": put_parent(store, architecture)}, store, Runtime.quiet())


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize("architecture", [SWIN, RESNET], ids=["swin", "resnet"])
def test_run__original_names__read_back_the_same(
    architecture: ArchitectureConfig, suffix: str, tmp_path: Path, store: Store
) -> None:
    out = export(store, tmp_path / f"model{suffix}", architecture, format="original")
    model = random_model(architecture, 7)
    report = load_initial_weights(model, out)
    assert (report.missing, report.mismatched) == ((), ())
    for name, tensor in random_model(architecture).state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


COUNTING_RESNET = RESNET.model_copy(update={"backbone": RESNET.backbone.model_copy(update={"norm": "sync_bn"})})


@pytest.mark.parametrize("architecture", [SWIN, RESNET, COUNTING_RESNET], ids=["swin", "resnet", "resnet-sync-bn"])
def test_run__hugging_face__read_back_the_same(architecture: ArchitectureConfig, tmp_path: Path, store: Store) -> None:
    out = export(store, tmp_path / "hf", architecture, format="hf")
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    model = random_model(architecture, 7)
    assert load_initial_weights(model, out).missing == ()
    for name, tensor in random_model(architecture).state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


def test_run__exit__encoder_cut_there(tmp_path: Path, store: Store) -> None:
    out = export(store, tmp_path / "m.pkl", format="original", exit_depth=2)
    names = pickle.loads(out.read_bytes())["model"].keys()
    assert {name.split(".")[5] for name in names if "encoder.layers" in name} == {"0", "1"}


def test_run__exit_that_is_none__refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="no exit at depth 5; it has 1, 2, 3"):
        export(store, tmp_path / "m.pkl", format="original", exit_depth=5)


def test_run__unknown_suffix__refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match=r"ends in none of \.pkl, \.pth, \.safetensors"):
        export(store, tmp_path / "model.bin", format="original")


@pytest.mark.parametrize("format_,name", [("hf", "hf"), ("original", "model.pkl")])
def test_run__place_taken__refused_until_replaced(format_: str, name: str, tmp_path: Path, store: Store) -> None:
    out = export(store, tmp_path / name, format=format_)
    with pytest.raises(UsageError, match="is there already"):
        export(store, out, format=format_)
    export(store, out, format=format_, replace=True, exit_depth=1)
    state = load_state(out)
    assert not any("encoder.layers.1.self_attn" in name for name in state if "transformer" in name or "decoder" in name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "store"]


def test_run__other_folder__never_replaced(tmp_path: Path, store: Store) -> None:
    (tmp_path / "home").mkdir()
    with pytest.raises(UsageError, match="is no Hugging Face folder, so it is not replaced"):
        export(store, tmp_path / "home", format="hf", replace=True)


def test_run__place_that_cannot_be_written__refused(tmp_path: Path, store: Store) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Cannot write .*name another place with --out"):
        export(store, tmp_path / "file" / "m.pkl", format="original")


DETR = DetrConfig(
    name="small",
    backbone=ResNetConfig(blocks=(1, 1, 1, 1), stem_channels=8, res2_channels=16, bottleneck_channels=4),
    hidden_dim=32,
    heads=4,
    encoder_layers=3,
    decoder_layers=2,
    feedforward_dim=48,
    num_queries=6,
    num_classes=4,
)


@pytest.mark.parametrize("architecture", [SWIN, DETR], ids=["mask2former", "detr"])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"short_edge_px": 1024, "long_edge_px": 2048}, (True, 1024, 2048)),
        ({"short_edge_px": 640, "long_edge_px": None}, (True, 640, 100_000)),
        ({}, (False, 100_000, 100_000)),  # the drawn scenes are taken as they are
    ],
)
def test_run__hugging_face__has_the_parents_own_size_rule(
    tmp_path: Path,
    store: Store,
    architecture: AnyArchitecture,
    rule: dict[str, Any],
    expected: tuple[bool, int, int],
) -> None:
    parent = store.get(put_parent(store, architecture), ParentManifest)
    manifest = parent.manifest.model_copy(update={"test_resize": ResizeConfig(**rule), "files": ()})
    digest = store.put(manifest, {"model.safetensors": parent.path_of("model.safetensors")}).digest
    config = ExportWeightsConfig(out=str(tmp_path / "hf"), format="hf")
    run(config, {"parent": digest}, store, Runtime.quiet())
    processor = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    found = processor["do_resize"], processor["size"]["shortest_edge"], processor["size"]["longest_edge"]
    assert found == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m2f-shapes", "transformers builds only 4 points and equal heads"),
        ("lite-m2f-r50", "transformers computes Mask2Former's alone"),
        ("rt-m2f-r50", "transformers computes Mask2Former's alone"),
        ("maskformer-r50", "has a feature pyramid without an encoder"),
        ("detr-r50-dc5", "stride 32 only"),
        ("detr-shapes", "stride 32 only"),
    ],
)
def test_plan__hugging_face_cannot_hold_it__refused_by_its_configuration(
    name: str, message: str, tmp_path: Path, store: Store
) -> None:
    # Without weights: what a dry run refuses needs none.
    inputs = {"parent": put_parent(store, ALL_ARCHITECTURES[name], b"")}
    out = str(tmp_path / "out")
    with pytest.raises(UsageError, match=message):
        plan(ExportWeightsConfig(out=out, format="hf"), inputs, store)
    plan(ExportWeightsConfig(out=f"{out}.pkl", format="original"), inputs, store)
