"""Our model and our weight files against transformers' Mask2Former (random weights, small sizes)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.peer import BACKBONES, cut_encoder, padded_batch, saved_peer

from ecocli.config.architecture import ArchitectureConfig
from ecocli.model.builders import build_model
from ecocli.model.mask2former import Mask2Former
from ecocli.model.swin import SwinTransformer
from ecocli.weights.architecture import infer_architecture
from ecocli.weights.export import write_huggingface
from ecocli.weights.files import load_state
from ecocli.weights.huggingface import architecture_from_folder
from ecocli.weights.loading import load_initial_weights, recognise

# The last digits of sums hang on the processor; a mask logit above 1 is allowed its share.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module", params=BACKBONES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    return saved_peer(request.param, folder), folder


def imported(folder: Path) -> tuple[ArchitectureConfig, Mask2Former]:
    architecture, _labels = architecture_from_folder(folder)
    model = build_model(architecture)
    report = load_initial_weights(model, folder)
    assert (report.missing, report.mismatched) == ((), ())
    return architecture, model.eval()


def test_forward__every_exit__equals_cut_peer(pair: tuple[Any, Path]) -> None:
    import copy

    peer, folder = pair
    _, model = imported(folder)
    batch = padded_batch()
    with torch.no_grad():
        predictions = model(batch, (1, 2, 3))
        for exit_index in range(3):
            cut = copy.deepcopy(peer)
            cut_encoder(cut, exit_index + 1)
            expected = cut(pixel_values=batch, output_auxiliary_logits=True)
            logits, masks = predictions.pred_logits[exit_index], predictions.pred_masks[exit_index]
            torch.testing.assert_close(logits[-1], expected.class_queries_logits, **TOLERANCE)
            torch.testing.assert_close(masks[-1], expected.masks_queries_logits, **TOLERANCE)
            assert len(expected.auxiliary_logits) == 3
            for step, auxiliary in enumerate(expected.auxiliary_logits):
                torch.testing.assert_close(logits[step], auxiliary["class_queries_logits"], **TOLERANCE)
                torch.testing.assert_close(masks[step], auxiliary["masks_queries_logits"], **TOLERANCE)


def test_forward_per_image__different_exits__each_equals_cut_peer(pair: tuple[Any, Path]) -> None:
    import copy

    peer, folder = pair
    _, model = imported(folder)
    batch = padded_batch()
    with torch.no_grad():
        predictions = model.predict_at(model.extract(batch), torch.tensor([3, 1]))
        for row, depth in enumerate((3, 1)):
            cut = copy.deepcopy(peer)
            cut_encoder(cut, depth)
            expected = cut(pixel_values=batch)
            torch.testing.assert_close(predictions.pred_logits[row], expected.class_queries_logits[row], **TOLERANCE)
            torch.testing.assert_close(predictions.pred_masks[row], expected.masks_queries_logits[row], **TOLERANCE)


@pytest.mark.parametrize("height,width", [(64, 96), (75, 101), (33, 47)])
def test_swin__odd_sizes__equals_peer_backbone(height: int, width: int) -> None:
    from parity.peer import random_peer

    from ecocli.weights.mappings import HF_SWIN
    from ecocli.weights.renaming import to_original

    encoder = random_peer("swin").model.pixel_level_module.encoder
    # In memory transformers 5 uses newer names than in files.
    saved = {
        name.removeprefix("swin.")
        .replace("attention.q_proj", "attention.self.query")
        .replace("attention.k_proj", "attention.self.key")
        .replace("attention.v_proj", "attention.self.value")
        .replace("attention.relative_position_bias.rel", "attention.self.rel")
        .replace("attention.o_proj", "attention.output.dense")
        .replace("mlp.fc1", "intermediate.dense")
        .replace("mlp.fc2", "output.dense"): tensor
        for name, tensor in encoder.state_dict().items()
        if not name.startswith("swin.layernorm")
    }
    state, unknown = to_original(saved, HF_SWIN)
    assert unknown == ()
    backbone = SwinTransformer(embed_dim=8, depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=5).eval()
    left = backbone.load_state_dict(state, strict=False)
    assert left.unexpected_keys == []
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = backbone(images)
        expected = encoder(images).feature_maps
    for found, wanted in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, **TOLERANCE)


def test_write_huggingface__round_trip__transformers_predicts_the_same(pair: tuple[Any, Path], tmp_path: Path) -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    _, folder = pair
    architecture, model = imported(folder)
    for name, content in write_huggingface(architecture, model.state_dict(), ["a", "b", "c", "d", "e"]).items():
        (tmp_path / name).write_bytes(content)
    peer, info = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    # The peer's own extra norm is neither in published files nor read by the model.
    assert all("swin.layernorm" in name for name in info["missing_keys"])
    batch = padded_batch()
    with torch.no_grad():
        expected = peer.eval()(pixel_values=batch)
        predictions = model(batch, (3,), all_layers=False)
    torch.testing.assert_close(predictions.pred_logits[0, 0], expected.class_queries_logits, **TOLERANCE)
    torch.testing.assert_close(predictions.pred_masks[0, 0], expected.masks_queries_logits, **TOLERANCE)
    assert peer.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}


def test_write_huggingface__cut_at_an_exit__transformers_predicts_that_exit(
    pair: tuple[Any, Path], tmp_path: Path
) -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    architecture, model = imported(pair[1])
    files = write_huggingface(architecture, model.state_dict(), list("abcde"), exit_depth=2)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert json.loads(files["config.json"])["encoder_layers"] == 2
    peer = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = peer(pixel_values=padded_batch())
        predictions = model(padded_batch(), (2,), all_layers=False)
    torch.testing.assert_close(predictions.pred_masks[0, 0], expected.masks_queries_logits, **TOLERANCE)


def test_infer_architecture__peer_weights__equals_its_config(pair: tuple[Any, Path]) -> None:
    # Head counts do not show in shapes: the peer has 4, the published models and the inference 8.
    architecture, _ = imported(pair[1])
    inferred = infer_architecture(recognise(load_state(pair[1]), "peer").tensors)
    assert inferred.backbone.model_dump(exclude={"norm", "drop_path_rate"}) == architecture.backbone.model_dump(
        exclude={"norm", "drop_path_rate"}
    )
    assert inferred.transformer_decoder.layers == architecture.transformer_decoder.layers
    assert inferred.pixel_decoder.encoder.layers == 3
    assert inferred.num_classes == 5
