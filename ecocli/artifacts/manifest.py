"""Manifests: what an artifact is, what it was made from, and which files it consists of.

One class per kind. The canonical JSON of a manifest is the config blob of the artifact's OCI manifest, so every field
is part of the artifact's identity; hosts, times and versions belong to the provenance, outside of it. Stages leave
``files`` empty: the store fills it in from what it wrote.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args, get_origin

from pydantic import Field, JsonValue, model_validator

from ecocli.artifacts.digest import DIGEST_PATTERN, canonical_json, sha256_bytes
from ecocli.artifacts.profile_summary import ProfileSummary
from ecocli.artifacts.summaries import EvaluationSummary, GateMetrics, SweepSummary
from ecocli.config.any_architecture import AnyArchitecture
from ecocli.config.base import Config
from ecocli.config.category import CategoryConfig
from ecocli.config.dataset import DatasetConfig, ResizeConfig
from ecocli.config.derive import QualityName, TaskName
from ecocli.config.fit_gate import CostName, FeatureName, HeadName
from ecocli.config.precision import InferencePrecision
from ecocli.runtime.formats import parse_json

DigestText = Annotated[str, Field(pattern=DIGEST_PATTERN)]
FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", max_length=255)
]
KindName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
FileContents = Mapping[str, Path | bytes]


STAGES = ("train-parent", "import", "derive", "fit-gate", "sweep", "eval", "profile", "report")
"""Every stage whose requests a store remembers."""


def request_digest(
    stage: str,
    schema_version: int,
    config: Mapping[str, JsonValue],
    inputs: Mapping[str, str],
    fingerprints: Mapping[str, str],
) -> str:
    """Return the identity of a request: the SHA-256 of what was asked."""
    return sha256_bytes(
        canonical_json(
            {
                "stage": stage,
                "schema_version": schema_version,
                "config": dict(config),
                "inputs": dict(inputs),
                "dataset_fingerprints": dict(fingerprints),
            }
        )
    )


class FileEntry(Config):
    """One file of an artifact.

    Attributes:
        name: Relative POSIX path inside the artifact.
    """

    name: FileName
    size_bytes: int = Field(ge=0)
    digest: DigestText


class Manifest(Config):
    """What all kinds of artifacts record.

    Attributes:
        kind: The kind of artifact, the same word as in the command line.
        schema_version: Version of the stage that made it; a stage raises it when its results change.
        stage_config: The resolved configuration of the stage, as JSON data: a part of what was asked. No stage reads
            it; what others want to know of it is a field of the kind.
        inputs: Role (``parent``, ``derived``) to digest of each input artifact.
        dataset_fingerprints: Role (``train``, ``validation``) to fingerprint of each data set.
        files: The artifact's files by ascending name; filled in by the store.
    """

    kind: KindName
    schema_version: int = Field(ge=1)
    stage_config: dict[str, JsonValue]
    inputs: dict[str, DigestText]
    dataset_fingerprints: dict[str, str]
    files: tuple[FileEntry, ...] = ()

    @model_validator(mode="after")
    def _names_ascend(self) -> Self:
        names = [entry.name for entry in self.files]
        if names != sorted(set(names)):
            raise ValueError("files must be sorted by name and named once")
        return self

    def action_digest(self, stage: str) -> str:
        """Return the digest of the request that this manifest answers, if this stage made it."""
        return request_digest(stage, self.schema_version, self.stage_config, self.inputs, self.dataset_fingerprints)

    def canonical_bytes(self) -> bytes:
        """Return the canonical JSON of the manifest: the artifact's config blob."""
        return canonical_json(self.model_dump(mode="json"))

    def with_files(self, files: Sequence[FileEntry]) -> Self:
        """Return a copy that lists these files, sorted by name."""
        entries = sorted((entry.model_dump() for entry in files), key=lambda entry: str(entry["name"]))
        return self.model_validate({**dict(self), "files": tuple(FileEntry(**entry) for entry in entries)})


class TrainedOn(Config):
    """Images that a parent has seen: those of one split, less those kept out by ``ecocli.data.hold_out``.

    Attributes:
        dataset: What they come from, see ``DatasetConfig.source``.
        split: Name of the split.
        fingerprint: The split's.
        hold_out: Share of its images that was kept out.
        rule: How these were chosen.
    """

    dataset: str
    split: str
    fingerprint: str
    hold_out: float = Field(ge=0.0, lt=1.0)
    rule: Literal["sha256-of-id"] = "sha256-of-id"


class ParentManifest(Manifest):
    """A multi-exit model (Step A).

    Attributes:
        architecture: The resolved architecture configuration.
        exit_depths: Encoder layers run at each exit, ascending, counted from 1.
        categories: The categories in the order of the class index.
        dataset: What it was trained on, with how it is to be varied and resized; None for imported weights.
        test_resize: How images are resized for it.
        steps: Optimisation steps trained; 0 for imported weights.
        trained_on: The images it has seen, and those of the parents that its training started from; empty where it is
            not known.
    """

    kind: Literal["parent"] = "parent"
    architecture: AnyArchitecture
    exit_depths: tuple[int, ...]
    categories: tuple[CategoryConfig, ...]
    dataset: DatasetConfig | None
    test_resize: ResizeConfig
    steps: int = Field(ge=0)
    trained_on: tuple[TrainedOn, ...] = ()

    @model_validator(mode="after")
    def _exits_are_there(self) -> Self:
        offered = self.architecture.exits.depths
        if not self.exit_depths or list(self.exit_depths) != sorted(set(self.exit_depths)):
            raise ValueError(f"exit_depths must ascend, each depth once, found {list(self.exit_depths)}")
        if strange := sorted(set(self.exit_depths) - set(offered)):
            raise ValueError(f"exit_depths has {strange}, but the encoder has exits at {list(offered)}")
        return self


class DerivedManifest(Manifest):
    """The derived tables (Step B): per image, the quality at each exit and the gate's features.

    Attributes:
        splits: Names of the data set splits, one table each.
        exit_depths: Encoder layers run at each exit, ascending.
        rows: Number of images per split.
        feature_sizes: Feature name to its length.
        dataset: The data, with how images were resized.
        precision: Type of the network's products.
        mirrored: Whether there is a table of the mirror images of each split.
        task: What the model predicts.
        quality: What the quality of one image is.
    """

    kind: Literal["derived"] = "derived"
    splits: tuple[str, ...]
    exit_depths: tuple[int, ...]
    rows: dict[str, int]
    feature_sizes: dict[str, int]
    dataset: DatasetConfig
    precision: InferencePrecision
    mirrored: bool = False
    task: TaskName = "panoptic"
    quality: QualityName = "pq"


class GateManifest(Manifest):
    """A fitted gate (Step C).

    Attributes:
        task: What the model predicts; it decides what quality is.
        exit_depths: Encoder layers run at each exit the gate can choose, ascending.
        beta: Weight of the compute cost in the utility.
        feature: Name of the pooled feature the gate reads.
        metrics: Scores beside their controls; None for a gate that was imported.
        head: What the linear layer gives: ``class``, scores of the exits; ``quality``, the expected quality of each
            exit less ``beta`` times its entry in ``exit_costs``. So with the quality head another beta b is applied at
            run time by taking ``(b - beta) * exit_costs`` off the bias.
        cost: The cost model of the utility.
        exit_costs: Mean cost of each exit in that unit (layers, GFLOPs, ms); empty where unknown.
    """

    kind: Literal["gate"] = "gate"
    task: TaskName = "panoptic"
    exit_depths: tuple[int, ...]
    beta: float
    feature: FeatureName
    metrics: GateMetrics | None
    head: HeadName = "class"
    cost: CostName = "depth"
    exit_costs: tuple[float, ...] = ()


class EvaluationManifest(Manifest):
    """A parent, and a gate beside its controls, scored on a data set.

    Attributes:
        dataset: The data, with how images were resized.
    """

    kind: Literal["evaluation"] = "evaluation"
    dataset: DatasetConfig
    summary: EvaluationSummary


class ProfileManifest(Manifest):
    """GFLOPs of a model by exit and part."""

    kind: Literal["profile"] = "profile"
    summary: ProfileSummary


class SweepManifest(Manifest):
    """Many gates over one table."""

    kind: Literal["sweep"] = "sweep"
    task: TaskName = "panoptic"
    summary: SweepSummary


ManifestT = TypeVar("ManifestT", bound=Manifest)


def kind_of_class(manifest_class: type[Manifest]) -> str:
    """Return the kind that a manifest class stands for.

    Raises:
        TypeError: The class does not fix ``kind`` to one literal.
    """
    annotation = manifest_class.model_fields["kind"].annotation
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    if len(values) != 1 or not re.fullmatch(r"[a-z][a-z0-9-]*", str(values[0])):
        raise TypeError(f"{manifest_class.__name__}.kind must be a Literal of one kind; found {annotation!r}.")
    return str(values[0])


def base_manifest(config: bytes) -> Manifest:
    """Read the fields that all kinds share, whatever the kind.

    Args:
        config: Canonical JSON of a manifest of any kind.

    Raises:
        ValueError: The bytes are no manifest.
    """
    raw = parse_json(config)
    if not isinstance(raw, dict):
        raise ValueError("a manifest is a JSON object")
    shared = {key: value for key, value in raw.items() if key in Manifest.model_fields}
    return Manifest.model_validate_json(json.dumps(shared))
