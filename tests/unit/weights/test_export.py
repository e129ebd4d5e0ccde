"""Writing models for other programs (that transformers predicts the same is shown in tests/parity)."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from helpers_weights import RESNET, SWIN, random_model

from ecocli.config.architecture import ARCHITECTURES
from ecocli.errors import UsageError
from ecocli.model.builders import build_model
from ecocli.weights.export import cut_encoder, to_pickle, write_huggingface, write_original

LABELS = ("person", "car", "sky", "grass")


@pytest.mark.parametrize("name", ["coco_r50", "coco_swin_t"])
def test_write_original__published_size__exactly_the_recorded_entries(name: str, shared_dir: Path) -> None:
    # Origin: statedict_NAME.json of the original code.
    recorded = json.loads((shared_dir / "golden" / f"statedict_{name}.json").read_text())
    architecture = ARCHITECTURES["m2f-r50" if "r50" in name else "m2f-swin-t"]
    with torch.device("meta"):
        state = build_model(architecture).state_dict()
    written = {key: tuple(tensor.shape) for key, tensor in write_original(architecture, state).items()}
    assert written == {entry["key"]: tuple(entry["shape"]) for entry in recorded["entries"]}


def test_write_original__empty_weight__no_object_a_tenth() -> None:
    written = write_original(SWIN, random_model(SWIN).state_dict())
    assert written["criterion.empty_weight"].tolist() == pytest.approx([1, 1, 1, 1, 0.1])


def test_to_pickle__plain_pickle__numpy_arrays_under_model() -> None:
    loaded = pickle.loads(to_pickle({"a": torch.arange(3.0)}))
    assert loaded["model"]["a"].tolist() == [0, 1, 2]
    assert loaded["__author__"] == "eco"


def test_cut_encoder__two_of_three__later_layers_gone() -> None:
    state = random_model(SWIN).state_dict()
    kept = cut_encoder(state, SWIN.exits, 2)
    gone = set(state) - set(kept)
    prefix = "sem_seg_head.pixel_decoder.transformer.encoder.layers."
    assert gone == {name for name in state if name.startswith(prefix + "2.")}
    assert len(gone) == 16


@pytest.mark.parametrize("depth", [0, 4])
def test_cut_encoder__no_such_exit__refused(depth: int) -> None:
    with pytest.raises(UsageError, match=rf"exit depths \[{depth}\] asked of an encoder with 3 layers"):
        cut_encoder(random_model(SWIN).state_dict(), SWIN.exits, depth)


def test_write_huggingface__frozen_norms__get_step_counters() -> None:
    from safetensors.torch import load

    written = load(write_huggingface(RESNET, random_model(RESNET).state_dict(), LABELS)["model.safetensors"])
    means = [name for name in written if name.endswith("running_mean")]
    assert means
    assert all(name.replace("running_mean", "num_batches_tracked") in written for name in means)


def test_write_huggingface__unknown_entry__refused() -> None:
    state = random_model(SWIN).state_dict() | {"gate.weight": torch.ones(1)}
    with pytest.raises(UsageError, match=r"no place for gate\.weight"):
        write_huggingface(SWIN, state, LABELS)
