"""Small artifacts for tests of the store."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import DerivedManifest, FileContents, GateManifest, ParentManifest
from ecocli.artifacts.store import Store
from ecocli.artifacts.summaries import (
    ChoiceSummary,
    ExitSummary,
    FitSummary,
    GateMetrics,
    GateSummary,
    MajoritySummary,
    RandomSummary,
)
from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.architecture import ARCHITECTURES
from ecocli.config.category import CategoryConfig
from ecocli.config.dataset import KEEP_SIZE, DatasetConfig, ResizeConfig
from ecocli.data.categories import SHAPES

SHAPES_RECORDED = tuple(category.recorded for category in SHAPES)


def gate_metrics(shares: tuple[float, ...] = (0.5, 0.5)) -> GateMetrics:
    """What a gate's manifest tells of its scores; all alike but for the shares of the exits."""
    choice: dict[str, Any] = {"pq": 0.5, "cost": 2.0, "gflops": 9.0, "encoder_gflops": 3.0, "mean_depth": 2.0}
    choice["exit_shares"] = shares
    exit_ = ExitSummary(**choice, exit_depth=2)
    return GateMetrics(
        unit="GFLOPs",
        recipe="paper",
        recipes={},
        gate=GateSummary(**choice, pq_interval=(0.4, 0.6), accuracy=0.5),
        fixed=(exit_,),
        best_fixed=exit_,
        majority=MajoritySummary(**choice, exit_depth=2, accuracy=0.5),
        blend=None,
        lead=None,
        lead_interval=(None, None),
        random=RandomSummary(**choice, pq_spread=None),
        oracle=ChoiceSummary(**choice),
        utility_oracle=ChoiceSummary(**choice),
        scored_on="val",
        images=4,
        undefined_images=0,
        warnings=(),
        fit=FitSummary(
            training_images=4,
            left_out_images=0,
            features=8,
            l2=0.1,
            l2_path=(),
            gradient_norm=0.0,
            evaluations=1,
            offset=0.0,
        ),
    )


def gate_manifest(beta: float = 0.1, inputs: Mapping[str, str] | None = None) -> GateManifest:
    """A gate's manifest without files."""
    return GateManifest(
        schema_version=1,
        stage_config={"beta": beta},
        inputs=dict(inputs or {}),
        dataset_fingerprints={},
        exit_depths=(2, 3),
        beta=beta,
        feature="res5",
        metrics=gate_metrics(),
    )


def parent_manifest(
    architecture: AnyArchitecture = ARCHITECTURES["m2f-shapes"],
    exit_depths: tuple[int, ...] = (2, 3),
    categories: tuple[CategoryConfig, ...] = SHAPES_RECORDED,
    dataset: DatasetConfig | None = None,
    test_resize: ResizeConfig | None = None,
) -> ParentManifest:
    """A parent's manifest without files; the size rule is by default that of the data set, if there is one."""
    return ParentManifest(
        schema_version=1,
        stage_config={},
        inputs={},
        dataset_fingerprints={"train": "abc"},
        architecture=architecture,
        exit_depths=exit_depths,
        categories=categories,
        dataset=dataset,
        test_resize=test_resize or (KEEP_SIZE if dataset is None else dataset.test_resize),
        steps=7,
    )


def derived_manifest(
    parent: str | None,
    exit_depths: tuple[int, ...],
    feature_sizes: Mapping[str, int],
    rows: Mapping[str, int] = MappingProxyType({"train": 1}),
) -> DerivedManifest:
    """A manifest of tables without files, of the drawn scenes."""
    return DerivedManifest(
        schema_version=1,
        stage_config={},
        inputs={} if parent is None else {"parent": parent},
        dataset_fingerprints={},
        splits=tuple(rows),
        exit_depths=exit_depths,
        rows=dict(rows),
        feature_sizes=dict(feature_sizes),
        dataset=DatasetConfig(),
        precision="float32",
    )


def put_gate(
    store: Store,
    beta: float = 0.1,
    files: FileContents | None = None,
    inputs: Mapping[str, str] | None = None,
    action: str | None = None,
    names: tuple[str, ...] = (),
) -> Artifact[GateManifest]:
    """Store a gate; different betas give different artifacts."""
    contents = {"gate.safetensors": b"weights", "notes.json": b"{}"} if files is None else files
    return store.put(gate_manifest(beta, inputs), contents, action=action, names=names)


def overwrite(path: Path, data: bytes) -> None:
    """Damage a read-only blob in place."""
    path.chmod(0o644)
    path.write_bytes(data)


def flip_bit(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    overwrite(path, bytes(data))


def age(root: Path, seconds: float) -> None:
    """Make everything below a folder look older."""
    import os
    import time

    then = time.time() - seconds
    for path in (root, *root.rglob("*")):
        os.utime(path, (then, then))
