"""Actions: what was asked of a stage, and the rule that the same is not computed twice.

The action digest covers stage, schema version, resolved configuration, input digests and data set fingerprints. It maps
to the digest of what came out; an output digest is never predicted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from pydantic import JsonValue

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.manifest import FileContents, Manifest, ManifestT, kind_of_class, request_digest
from ecocli.artifacts.names import check_name
from ecocli.artifacts.provenance import NOTHING_RECORDED, Provenance
from ecocli.artifacts.store import Store
from ecocli.config.base import Config
from ecocli.errors import DataError, UsageError
from ecocli.runtime.context import Runtime

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Action:
    """What is asked of a stage.

    Attributes:
        schema_version: Raised when the same request gives another result than before.
        config: Everything that shapes the result, resolved; nothing that does not (device, paths, threads).
        inputs: Role to digest of the input artifacts.
        fingerprints: Role to fingerprint of the data sets.
    """

    stage: str
    schema_version: int
    config: Config
    inputs: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The identity of the request."""
        return request_digest(self.stage, self.schema_version, self.stage_config, self.inputs, self.fingerprints)

    @property
    def stage_config(self) -> dict[str, JsonValue]:
        """The configuration as JSON data, as manifests record it."""
        config: dict[str, JsonValue] = self.config.model_dump(mode="json")
        return config

    @property
    def recorded(self) -> dict[str, Any]:
        """The fields of a manifest that repeat the request."""
        return {
            "schema_version": self.schema_version,
            "stage_config": self.stage_config,
            "inputs": dict(self.inputs),
            "dataset_fingerprints": dict(self.fingerprints),
        }

    def check_manifest(self, manifest: Manifest) -> None:
        """Make sure that a manifest records this very request.

        Raises:
            ValueError: It does not; that is a bug of the stage.
        """
        for name, expected in self.recorded.items():
            found = getattr(manifest, name)
            if found != expected:
                raise ValueError(f"The manifest's {name} is {found!r}, the action's is {expected!r}.")


@dataclass(frozen=True)
class Made(Generic[ManifestT]):
    """What the work of a stage gives.

    Attributes:
        files: Name inside the artifact to its bytes or to a file.
        provenance: Recorded beside the artifact, together with device, processes, threads, host, time and versions.
    """

    manifest: ManifestT
    files: FileContents = field(default_factory=dict)
    provenance: Provenance = NOTHING_RECORDED


@dataclass(frozen=True)
class Plan(Generic[ManifestT]):
    """A request that was checked, and the work that answers it.

    Attributes:
        work: Computes the artifact. Its argument is a folder that survives kills, for checkpoints and files. Files
            left in the folder must appear whole (`files.replacing`): where locks do not hold, another process works
            in the same folder. With several processes, all of them call it; only the main one's result counts, and the
            others may return None.
        names: Names to set beside the kind's own.
        anew: Whether it is computed even if the store has it: a measurement of this machine.
    """

    action: Action
    manifest_class: type[ManifestT]
    work: Callable[[Path], Made[ManifestT] | None]
    names: tuple[str, ...] = ()
    anew: bool = False


def execute(
    plan: Plan[ManifestT], store: Store, runtime: Runtime, *, force: bool = False, names: Sequence[str] = ()
) -> Artifact[ManifestT]:
    """Return the artifact of a plan, computing it only if the store does not have it.

    Args:
        runtime: Where and with whom to run; all processes call this function. A request to stop ends the wait for
            another job that computes the same.

    Raises:
        ArtifactError: The store has the artifact, but damaged.
        UsageError: The store cannot be written, or a name is impossible.
        InterruptedRunError: A signal asked to stop.
    """
    world, action, force = runtime.world, plan.action, force or plan.anew
    all_names = list(dict.fromkeys([kind_of_class(plan.manifest_class), *plan.names, *names]))
    for name in all_names:
        check_name(name)

    def look_up() -> str | None:
        return world.broadcast_object(store.find_action(action.digest) if world.is_main and not force else None)

    digest = look_up()
    if digest is None:
        # Only the main process takes the lock; the others wait for its broadcast.
        with store.lock(action.digest, lambda: runtime.stop.requested) if world.is_main else nullcontext():
            digest = look_up()
            if digest is None:
                return _compute(plan, store, runtime, force, all_names)
    artifact = store.get(digest, plan.manifest_class)
    try:
        action.check_manifest(artifact.manifest)
    except ValueError as error:
        # The entry is no part of the artifact, and any file may come to stand in its place.
        _log.warning("The action entry of %s belongs to another request (%s): its stage runs again.", digest, error)
        with store.lock(action.digest, lambda: runtime.stop.requested) if world.is_main else nullcontext():
            return _compute(plan, store, runtime, True, all_names)
    if world.is_main:
        _log.info("Reusing the %s %s.", artifact.manifest.kind, digest)
        for name in all_names:
            store.set_name(name, digest)
    return artifact


def _compute(
    plan: Plan[ManifestT], store: Store, runtime: Runtime, force: bool, names: Sequence[str]
) -> Artifact[ManifestT]:
    world, action = runtime.world, plan.action
    try:
        made = plan.work(store.run_dir(action.digest))
        digest = None
        if world.is_main:
            if made is None:
                raise RuntimeError(f"The work of {action.stage} gave nothing on the main process.")
            action.check_manifest(made.manifest)
            ran = Provenance(device=runtime.device, world_size=world.world_size, threads=runtime.threads)
            provenance = ran.beside(made.provenance)
            digest = store.put(
                made.manifest, made.files, action=action.digest, provenance=provenance, names=names
            ).digest
    except (OSError, DataError, UsageError):
        # Where locks do not hold, another process may have finished the same action and cleared the run folder.
        digest = store.find_action(action.digest) if world.world_size == 1 and not force else None
        if digest is None:
            raise
        _log.warning("Another process finished the same action first; using its result.")
    digest = world.broadcast_object(digest)
    if digest is None:
        raise RuntimeError("The main process of the run sent no digest.")
    return store.get(digest, plan.manifest_class)
