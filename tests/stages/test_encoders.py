"""Every stage with Lite-M2F, whose exits have a tail, with RT-M2F, which has one exit, and with MaskFormer."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from helpers_inference import TINY, tiny_dataset_config
from helpers_stages import run_stage
from helpers_store import parent_manifest
from helpers_training import tiny_config

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.lineage import WEIGHTS_FILE
from ecocli.artifacts.manifest import DerivedManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import load_tensors, save_tensors
from ecocli.config.any_architecture import Segmentation
from ecocli.config.architecture import ArchitectureConfig, EncoderConfig, HybridEncoderConfig, InterleavedEncoderConfig
from ecocli.config.derive import DeriveConfig
from ecocli.config.evaluate import EvaluateConfig, EvaluateExecutionConfig
from ecocli.config.export_weights import ExportWeightsConfig
from ecocli.config.fit_gate import FitGateConfig
from ecocli.config.import_weights import ImportWeightsConfig
from ecocli.config.maskformer import MaskFormerConfig
from ecocli.config.predict import PredictConfig
from ecocli.config.profile_model import ProfileModelConfig
from ecocli.config.report import ReportConfig
from ecocli.config.sweep import SweepConfig
from ecocli.config.train_parent import LOSSES
from ecocli.data.categories import SHAPES
from ecocli.model.builders import build_model
from ecocli.runtime.context import Runtime
from ecocli.stages import (
    derive,
    evaluate,
    export_weights,
    fit_gate,
    import_weights,
    predict,
    profile_model,
    report,
    sweep,
    train_parent,
)


def tiny_with(encoder: EncoderConfig) -> ArchitectureConfig:
    return TINY.model_copy(update={"pixel_decoder": TINY.pixel_decoder.model_copy(update={"encoder": encoder})})


ARCHITECTURES: dict[str, Segmentation] = {
    "lite": tiny_with(InterleavedEncoderConfig(layers=4, heads=4, feedforward_dim=32, small_ffn=True)),
    "rt": tiny_with(HybridEncoderConfig(heads=4, feedforward_dim=32, fusion_depth=1)),
    "maskformer": MaskFormerConfig(
        name="tiny",
        backbone=TINY.backbone,
        hidden_dim=32,
        mask_dim=32,
        # What shapes cannot tell on import: as published.
        heads=8,
        encoder_layers=3,
        encoder_feedforward_dim=32,
        decoder_layers=1,
        feedforward_dim=32,
        num_queries=8,
        num_classes=len(SHAPES),
        object_mask_threshold=0.3,
        overlap_threshold=0.3,
    ),
}


class Chain:
    """A parent with such an encoder, and what the stages made of it."""

    def __init__(self, folder: Path, architecture: Segmentation) -> None:
        self.store = Store(folder / "store")
        self.dataset = tiny_dataset_config(folder / "data", val=6)
        self.architecture = architecture
        self.exits = self.architecture.exits.default_depths()
        torch.manual_seed(0)
        model = build_model(self.architecture).eval().requires_grad_(False)
        model.sem_seg_head.predictor.class_embed.weight.mul_(6.0)
        manifest = parent_manifest(self.architecture, self.exits, dataset=self.dataset)
        files = {"model.safetensors": save_tensors(model.state_dict())}
        self.parent = self.store.put(manifest, files, names=["parent"])
        config = DeriveConfig(dataset=self.dataset, splits=("train", "val"), batch_size=2)
        self.derived: Artifact[DerivedManifest] = run_stage(
            derive, config, {"parent": self.parent.digest}, self.store, Runtime.quiet()
        )
        self.settings = {"folds": 2, "bootstrap_replicates": 20, "l2": 1.0}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp(request.param), ARCHITECTURES[request.param])


def test_train_parent__other_encoders__moves_every_tensor_of_the_encoder(chain: Chain) -> None:
    config = tiny_config(batch_size=2).model_copy(
        update={
            "dataset": chain.dataset,
            "architecture": chain.architecture,
            "exit_depths": chain.exits,
            "loss": LOSSES[chain.architecture.kind](),
        }
    )
    states = [
        load_tensors(
            run_stage(train_parent, config.model_copy(update={"steps": steps}), {}, chain.store).path_of(WEIGHTS_FILE)
        )
        for steps in (1, 2)
    ]
    encoder = {name for name in states[0] if ".transformer.encoder." in name}
    assert encoder
    still = [name for name in encoder if torch.equal(states[0][name], states[1][name])]
    assert not still


def test_derive__other_encoders__has_a_column_per_exit(chain: Chain) -> None:
    assert chain.derived.manifest.exit_depths == chain.exits
    rows = pq.read_table(chain.derived.path_of("val.parquet")).to_pylist()
    assert [len(row["gflops"]) for row in rows] == [len(chain.exits)] * 6
    assert all(row["gflops"] == sorted(set(row["gflops"])) for row in rows)


@pytest.mark.parametrize("head", ["class", "quality"])
def test_gate__other_encoders__is_scored_reported_and_predicts(chain: Chain, head: str, tmp_path: Path) -> None:
    config = FitGateConfig(beta=0.001, head=head, **chain.settings)
    gate = run_stage(fit_gate, config, {"derived": chain.derived.digest}, chain.store)
    assert gate.manifest.exit_depths == chain.exits
    inputs = {"parent": chain.parent.digest, "gate": gate.digest}
    execution = EvaluateExecutionConfig(timed_images=2)
    scored = run_stage(
        evaluate,
        EvaluateConfig(dataset=chain.dataset, batch_size=2, bootstrap_replicates=20, metrics=(), execution=execution),
        inputs,
        chain.store,
    )
    rows = scored.manifest.summary.by_name
    assert [name for name in rows if name.startswith("exit")] == [f"exit {depth}" for depth in chain.exits]
    fixed = [rows[f"exit {depth}"].gflops for depth in chain.exits]
    assert min(fixed) <= rows["gate"].gflops <= max(fixed) + 1e-3
    if len(chain.exits) == 1:
        assert rows["gate"].pq == rows["exit 1"].pq
        assert rows["gate"].exit_shares == (1.0,)

    page = report.run(
        ReportConfig(out=str(tmp_path / "page"), examples=1, data_root=chain.dataset.root),
        {"evaluation": scored.digest},
        chain.store,
        Runtime.quiet(),
    )
    assert [path.name for path in page.pictures] == ["tradeoff.png", "exits.png", "example-1.png"]

    # The decision of predict on a picture is that of eval on the same one.
    images = pq.read_table(scored.path_of("images.parquet")).to_pylist()
    folder = Path(chain.dataset.root or "") / "shapes" / "val"
    config = PredictConfig(
        images=tuple(str(folder / image["file_name"]) for image in images),
        out=str(tmp_path / "predicted"),
        test_resize=chain.dataset.test_resize,
        overlays=False,
    )
    predict.run(config, inputs, chain.store, Runtime.quiet()).check()
    annotations = json.loads((tmp_path / "predicted" / "panoptic.json").read_text())["annotations"]
    assert [one["exit_depth"] for one in annotations] == [image["gate_depth"] for image in images]


def test_sweep__other_encoders__has_a_row_per_beta(chain: Chain) -> None:
    config = SweepConfig(betas=(0.0, 0.01), **chain.settings)
    made = run_stage(sweep, config, {"derived": chain.derived.digest}, chain.store)
    assert [row.beta for row in made.manifest.summary.rows] == [0.0, 0.01]


def test_profile__other_encoders__adds_up_the_layers_of_each_exit(chain: Chain) -> None:
    made = run_stage(profile_model, ProfileModelConfig(sizes=((64, 64),)), {"parent": chain.parent.digest}, chain.store)
    (entry,) = made.manifest.summary.inputs
    totals = [exit_.total for exit_ in entry.exits]
    assert [exit_.exit_depth for exit_ in entry.exits] == list(chain.exits)
    assert totals == sorted(set(totals))


def test_import__what_was_exported__is_the_parent_at_its_deepest_exit(chain: Chain, tmp_path: Path) -> None:
    file = tmp_path / "whole.safetensors"
    config = ExportWeightsConfig(out=str(file), format="original")
    export_weights.run(config, {"parent": chain.parent.digest}, chain.store, Runtime.quiet())
    settings = ImportWeightsConfig(source=str(file), categories="shapes")
    imported = run_stage(import_weights, settings, {}, chain.store)
    # Weights tell an encoder's kind and layers; heads are those of the published models.
    if isinstance(chain.architecture, ArchitectureConfig):
        found_encoder = imported.manifest.architecture.pixel_decoder.encoder
        assert type(found_encoder) is type(chain.architecture.pixel_decoder.encoder)
    assert imported.manifest.architecture.kind == chain.architecture.kind
    assert imported.manifest.architecture.exits == chain.architecture.exits
    assert imported.manifest.exit_depths == chain.exits[-1:]
    found, expected = (load_tensors(one.path_of(WEIGHTS_FILE)) for one in (imported, chain.parent))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_export__shallow_exit__is_a_model_of_that_depth(chain: Chain, tmp_path: Path) -> None:
    depth = chain.exits[0]
    config = ExportWeightsConfig(out=str(tmp_path / "cut.safetensors"), format="original", exit_depth=depth)
    written = export_weights.run(config, {"parent": chain.parent.digest}, chain.store, Runtime.quiet())
    state = load_tensors(written)
    state.pop("criterion.empty_weight")
    count = len(chain.architecture.exits.layers_of(depth))
    if isinstance(chain.architecture, ArchitectureConfig):
        encoder = chain.architecture.pixel_decoder.encoder
        layers = {"layers": count} if hasattr(encoder, "layers") else {}
        pixel = chain.architecture.pixel_decoder.model_copy(update={"encoder": encoder.model_copy(update=layers)})
        shorter = chain.architecture.model_copy(update={"pixel_decoder": pixel})
    else:
        shorter = chain.architecture.model_copy(update={"encoder_layers": count})
    cut = build_model(shorter).eval()
    cut.load_state_dict(state, strict=True)
    whole = build_model(chain.architecture).eval()
    whole.load_state_dict(load_tensors(chain.parent.path_of("model.safetensors")), strict=True)
    torch.manual_seed(1)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = (
            model.predict_supervised(images, [(64, 96)], (exit_depth,))
            for model, exit_depth in ((whole, depth), (cut, cut.exits.deepest))
        )
    assert all(torch.equal(own, other) for own, other in zip(ours, theirs, strict=True))
