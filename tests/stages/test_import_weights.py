"""Importing published weights: what becomes of a good checkpoint, and that a bad one leaves nothing behind."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_stages import run_stage
from helpers_weights import RESNET, SWIN, random_model

from ecocli.artifacts.manifest import ParentManifest
from ecocli.artifacts.references import resolve
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors
from ecocli.config.architecture import ArchitectureConfig
from ecocli.config.dataset import ResizeConfig
from ecocli.config.import_weights import ImportWeightsConfig
from ecocli.config.loading import resolve_config
from ecocli.data.categories import CITYSCAPES
from ecocli.errors import DataError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.stages import import_weights
from ecocli.stages.import_weights import read_source
from ecocli.weights.export import to_pickle, write_huggingface, write_original

CITY = SWIN.model_copy(update={"num_classes": 19})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def checkpoint(folder: Path, architecture: ArchitectureConfig = CITY) -> Path:
    path = folder / "model_final.pkl"
    path.write_bytes(to_pickle(write_original(architecture, random_model(architecture).state_dict())))
    return path


def import_file(path: Path, store: Store, **said: Any) -> Any:
    return run_stage(import_weights, ImportWeightsConfig(source=str(path), **said), {}, store)


def test_run__pickle__parent_with_one_exit_at_full_depth(tmp_path: Path, store: Store) -> None:
    artifact = import_file(checkpoint(tmp_path), store)
    manifest = artifact.manifest
    assert (manifest.exit_depths, manifest.steps) == ((3,), 0)
    assert [category.name for category in manifest.categories] == [category.name for category in CITYSCAPES]
    assert manifest.categories[0] == CITYSCAPES[0].recorded
    assert manifest.architecture == CITY.model_copy(update={"name": "imported"})
    # Origin of the size rule: Mask2Former's Cityscapes test size.
    assert manifest.test_resize == ResizeConfig(short_edge_px=1024, long_edge_px=2048)
    assert manifest.dataset is None
    assert resolve(store, "parent", "parent") == artifact.digest
    expected = random_model(CITY).state_dict()
    found = load_tensors(artifact.path_of("model.safetensors"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_run__same_bytes_elsewhere__same_artifact_without_reading_the_name(tmp_path: Path, store: Store) -> None:
    first = checkpoint(tmp_path)
    other = tmp_path / "copies"
    other.mkdir()
    second = other / "renamed.pkl"
    second.write_bytes(first.read_bytes())
    assert import_file(first, store).digest == import_file(second, store).digest


def test_run__hugging_face_folder__same_weights_as_the_original_file(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    labels = [category.name for category in CITYSCAPES]
    for name, content in write_huggingface(CITY, random_model(CITY).state_dict(), labels).items():
        (folder / name).write_bytes(content)
    of_folder, of_file = import_file(folder, store), import_file(checkpoint(tmp_path), store)
    assert of_folder.manifest.files == of_file.manifest.files
    assert of_folder.manifest.architecture == of_file.manifest.architecture
    assert of_folder.digest != of_file.digest


def test_plan__folder__every_file_counts(tmp_path: Path) -> None:
    labels = [category.name for category in CITYSCAPES]
    for name, content in write_huggingface(CITY, random_model(CITY).state_dict(), labels).items():
        (tmp_path / name).write_bytes(content)
    config = ImportWeightsConfig(source=str(tmp_path))
    store = Store(tmp_path / "store")
    before = import_weights.plan(config, {}, store, Runtime.quiet()).action.digest
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    processor["image_mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert import_weights.plan(config, {}, store, Runtime.quiet()).action.digest != before
    assert read_source(tmp_path, None).architecture.pixel_mean == (127.5, 127.5, 127.5)


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def bad_checkpoint(kind: str, folder: Path) -> Path:
    path = checkpoint(folder)
    content = pickle.loads(path.read_bytes())
    if kind == "code":
        path.write_bytes(pickle.dumps(content | {"extra": Touch(folder / "ran")}))
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "incomplete":
        del content["model"]["sem_seg_head.predictor.decoder_norm.bias"]
        path.write_bytes(pickle.dumps(content))
    elif kind == "backbone":
        tensors = {n.removeprefix("backbone."): t for n, t in content["model"].items() if n.startswith("backbone.")}
        path.write_bytes(pickle.dumps({"model": tensors}))
    elif kind == "another model":
        path.write_bytes(to_pickle({"layer.weight": torch.ones(2)}))
    elif kind == "extra tensor":
        content["model"]["sem_seg_head.predictor.extra.weight"] = content["model"]["backbone.norm0.weight"]
        path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize(
    "kind,message",
    [
        ("code", r"holds the name (posix|nt)\.system"),
        ("truncated", "is no complete pickle"),
        ("incomplete", r"no complete model: it lacks sem_seg_head\.predictor\.decoder_norm\.bias"),
        ("backbone", "is a Swin backbone, expected a whole model"),
        ("another model", "no checkpoint that is known here"),
        ("extra tensor", r"of another model: it holds sem_seg_head\.predictor\.extra\.weight"),
    ],
)
def test_run__bad_checkpoint__nothing_run_and_nothing_stored(
    kind: str, message: str, tmp_path: Path, store: Store
) -> None:
    path = bad_checkpoint(kind, tmp_path)
    with pytest.raises(DataError, match=message):
        import_file(path, store)
    assert not (tmp_path / "ran").exists()
    assert store.digests() == []
    assert store.names() == {}


def test_run__other_preset__says_what_differs(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataError, match=r"another model than m2f-swin-t: backbone\.embed_dim is 8, expected 96"):
        import_file(checkpoint(tmp_path), store, arch="m2f-swin-t")


def test_run__unknown_class_count__asks_for_categories(tmp_path: Path, store: Store) -> None:
    with pytest.raises(
        UsageError, match=r"has 4 classes, which is no number of a known data set \(coco: 133, .* mapillary: 65"
    ):
        import_file(checkpoint(tmp_path, RESNET), store)


def test_run__categories_of_an_annotation_file__taken(tmp_path: Path, store: Store) -> None:
    categories = [
        {"id": id_, "name": f"n{id_}", "supercategory": "s", "isthing": id_ % 2, "color": [id_, 0, 0]}
        for id_ in (1, 3, 4, 8)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 4}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": []}],
        "categories": categories,
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    artifact = import_file(checkpoint(tmp_path, RESNET), store, categories=str(tmp_path / "panoptic.json"))
    assert [(c.id, c.is_thing) for c in artifact.manifest.categories] == [
        (1, True),
        (3, True),
        (4, False),
        (8, False),
    ]
    # A table of the user's own is resized as COCO is.
    assert artifact.manifest.test_resize.short_edge_px == 800


def test_run__categories_of_another_count__refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="coco has 133 categories, but the model has 19 classes"):
        import_file(checkpoint(tmp_path), store, categories="coco")


def test_run__labels_of_something_else__asks(tmp_path: Path, store: Store) -> None:
    labels = [f"tissue {index}" for index in range(19)]
    for name, content in write_huggingface(CITY, random_model(CITY).state_dict(), labels).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="19 classes like cityscapes, but calls them tissue 0"):
        import_file(tmp_path, store)
    assert import_file(tmp_path, store, categories="cityscapes").manifest.exit_depths == (3,)


def test_import_weights_config__unknown_arch__lists_presets() -> None:
    with pytest.raises(UsageError, match="arch is 'm2f-r51', expected one of m2f-r50, m2f-swin-t"):
        resolve_config(ImportWeightsConfig, {"source": "x", "arch": "m2f-r51"})


def test_parent_manifest__imported__readable_from_the_store(tmp_path: Path, store: Store) -> None:
    digest = import_file(checkpoint(tmp_path), store).digest
    assert store.get(digest, ParentManifest).manifest.stage_config["source_digest"].startswith("sha256:")
