"""Actions: what was asked of a stage, and the rule that the same is not computed twice.

The action digest covers stage, schema version, resolved configuration, input digests and data set fingerprints. It maps
to the digest of what came out; an output digest is never predicted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from ecocli.artifacts.artifact import Artifact
from ecocli.artifacts.digest import canonical_json, sha256_bytes
from ecocli.artifacts.manifest import FileContents, Manifest, ManifestT, kind_of_class
from ecocli.artifacts.names import check_name
from ecocli.artifacts.store import Store
from ecocli.config.base import Config
from ecocli.errors import DataError, UsageError
from ecocli.runtime.distributed import World

_log = logging.getLogger(__name__)
_ALONE = World()


@dataclass(frozen=True)
class Action:
    """What is asked of a stage.

    Attributes:
        stage: Name of the stage, such as ``fit-gate``.
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
        return sha256_bytes(
            canonical_json(
                {
                    "stage": self.stage,
                    "schema_version": self.schema_version,
                    "config": self.stage_config,
                    "inputs": dict(self.inputs),
                    "dataset_fingerprints": dict(self.fingerprints),
                }
            )
        )

    @property
    def stage_config(self) -> dict[str, JsonValue]:
        """The configuration as JSON data, as manifests record it."""
        config: dict[str, JsonValue] = self.config.model_dump(mode="json")
        return config

    def check_manifest(self, manifest: Manifest) -> None:
        """Make sure that a manifest records this very request.

        Raises:
            ValueError: It does not; that is a bug of the stage.
        """
        pairs = {
            "schema_version": (manifest.schema_version, self.schema_version),
            "stage_config": (manifest.stage_config, self.stage_config),
            "inputs": (manifest.inputs, dict(self.inputs)),
            "dataset_fingerprints": (manifest.dataset_fingerprints, dict(self.fingerprints)),
        }
        for name, (found, expected) in pairs.items():
            if found != expected:
                raise ValueError(f"The manifest's {name} is {found!r}, the action's is {expected!r}.")


def run_or_reuse(
    action: Action,
    manifest_class: type[ManifestT],
    store: Store,
    work: Callable[[Path], tuple[ManifestT, FileContents]],
    *,
    force: bool = False,
    names: Sequence[str] = (),
    provenance: Mapping[str, JsonValue] | None = None,
    world: World = _ALONE,
    stop: Callable[[], bool] | None = None,
) -> Artifact[ManifestT]:
    """Return the artifact of an action, computing it only if the store does not have it.

    Args:
        action: What is asked.
        manifest_class: Class of the artifact's manifest.
        store: Where artifacts are kept.
        work: Computes the artifact. Its argument is a folder that survives kills, for checkpoints and files; it
            returns the manifest without files, and the files. Those it leaves in the folder must appear whole
            (`files.replacing`): where locks do not hold, another process works in the same folder. With several
            processes, all of them call it and the main one's result counts.
        force: Compute it even if the store has it.
        names: Names to set beside the kind's own.
        provenance: Recorded beside the artifact if it is computed.
        world: The processes of this run, all of which call this function.
        stop: Asked while waiting for another job that computes the same; true ends the wait.

    Raises:
        ArtifactError: The store has the artifact, but damaged.
        UsageError: The store cannot be written, or a name is impossible.
        InterruptedRunError: `stop` asked for it.
    """
    all_names = list(dict.fromkeys([kind_of_class(manifest_class), *names]))
    for name in all_names:
        check_name(name)

    def look_up() -> str | None:
        return world.broadcast_object(store.find_action(action.digest) if world.is_main and not force else None)

    digest = look_up()
    if digest is None:
        # Only the main process takes the lock; the others wait for its broadcast.
        with store.lock(action.digest, stop) if world.is_main else nullcontext():
            digest = look_up()
            if digest is None:
                return _compute(action, manifest_class, store, work, force, all_names, provenance, world)
    artifact = store.get(digest, manifest_class)
    if world.is_main:
        _log.info("Reusing the %s %s.", artifact.manifest.kind, digest)
        for name in all_names:
            store.set_name(name, digest)
    return artifact


def _compute(
    action: Action,
    manifest_class: type[ManifestT],
    store: Store,
    work: Callable[[Path], tuple[ManifestT, FileContents]],
    force: bool,
    names: Sequence[str],
    provenance: Mapping[str, JsonValue] | None,
    world: World,
) -> Artifact[ManifestT]:
    try:
        manifest, files = work(store.run_dir(action.digest))
        digest = None
        if world.is_main:
            action.check_manifest(manifest)
            digest = store.put(manifest, files, action=action.digest, provenance=provenance, names=names).digest
    except (OSError, DataError, UsageError):
        # Where locks do not hold, another process may have finished the same action and cleared the run folder.
        digest = store.find_action(action.digest) if world.world_size == 1 and not force else None
        if digest is None:
            raise
        _log.warning("Another process finished the same action first; using its result.")
    digest = world.broadcast_object(digest)
    if digest is None:
        raise RuntimeError("The main process of the run sent no digest.")
    return store.get(digest, manifest_class)
