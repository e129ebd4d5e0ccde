"""A small parent with a gate in a store, and its graphs, for tests of exports and engines."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from helpers_inference import TINY, tiny_model
from helpers_store import derived_manifest, gate_metrics, parent_manifest

from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.tensors import save_tensors
from ecocli.config.architecture import ArchitectureConfig
from ecocli.data.batching import make_batch
from ecocli.data.photos import read_photo
from ecocli.model.gate import pool_features

FEATURES = 128
"""Channels of the tiny backbone's ``res5``."""


def put_tiny(store: Store, images: Sequence[Path], architecture: ArchitectureConfig = TINY) -> None:
    """Store a random parent with all its exits, and a gate of its own that uses several on images."""
    model, depths = tiny_model(architecture=architecture), architecture.exits.depths
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        # Offsets that depend on the token, as in a trained model.
        for name, weight in model.sem_seg_head.pixel_decoder.encoder.named_parameters():
            if name.endswith("sampling_offsets.weight"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    parent = store.put(
        parent_manifest(architecture, depths),
        {"model.safetensors": save_tensors(model.state_dict())},
        names=["parent"],
    ).digest
    pooled = []
    for path in images:
        batch = make_batch([read_photo(path)], model.pixel_mean, model.pixel_std)
        pooled.append(pool_features(model.extract(batch.images), batch.image_sizes)["res5"])
    if len(depths) == 1:
        return
    weight = torch.randn(len(depths), pooled[0].shape[1], generator=generator)
    # On average over the images all exits score alike, so that the images decide.
    bias = -(torch.cat(pooled) @ weight.T).mean(dim=0)
    table = store.put(
        derived_manifest(parent, depths, {"res5": pooled[0].shape[1]}),
        {"train.parquet": b"table"},
    ).digest
    store.put(
        GateManifest(
            schema_version=1,
            stage_config={},
            inputs={"derived": table},
            dataset_fingerprints={},
            exit_depths=depths,
            beta=0.1,
            feature="res5",
            head="quality",
            exit_costs=tuple(map(float, depths)),
            metrics=gate_metrics(),
        ),
        {
            "gate.safetensors": save_tensors(
                {
                    "linear.weight": weight,
                    "linear.bias": bias,
                }
            )
        },
        names=["gate"],
    )


def pictures(folder: Path) -> list[Path]:
    """Six pictures of four sizes; the engines see three padded sizes."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(5)
    paths = []
    for index, (height, width) in enumerate([(96, 128), (90, 120), (128, 96), (64, 64), (96, 128), (60, 101)]):
        blocks = rng.integers(0, 255, (4, 5, 3), np.uint8)
        picture = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(folder / f"{index}.png")
        picture.save(paths[-1])
    return paths


def export_tiny(place: Path, architecture: ArchitectureConfig, *options: str) -> dict[str, object]:
    """Store a parent with a gate where it can have one, write its graphs, and return what the command says."""
    put_tiny(Store(place / "store"), pictures(place / "pictures"), architecture)
    command = ["export", str(place / "graphs"), "--store", str(place / "store"), "--json", *options]
    command += ["--gate", "gate"] if len(architecture.exits.depths) > 1 and "--exit" not in options else []
    # On its own: inside torch.export sizes are symbols, which the tests' type checker takes for faults.
    done = subprocess.run([sys.executable, "-m", "ecocli", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said
