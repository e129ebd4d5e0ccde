"""The OCI image layout: descriptors, artifact manifests and the index.

Source: OCI image-spec 1.1. An artifact is an image manifest with an ``artifactType`` of ours, whose config blob is the
Pydantic manifest and whose layers are the files, their names as title annotations. skopeo and registries copy it
without change. Only digests, sizes and names are ever read back from an index: other tools drop the rest.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ecocli.artifacts.digest import canonical_json, is_digest, sha256_bytes
from ecocli.artifacts.manifest import FileEntry
from ecocli.errors import ArtifactError
from ecocli.runtime.formats import parse_json, read_json

LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}'
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_BYTES = b"{}"
EMPTY_DIGEST = sha256_bytes(EMPTY_BYTES)
TITLE = "org.opencontainers.image.title"
REF_NAME = "org.opencontainers.image.ref.name"
_INDEX_LIMIT_BYTES = 64 << 20
_ARTIFACT_TYPE = re.compile(r"application/vnd\.eco\.([a-z][a-z0-9-]*)\.v1\+json")
# A fixed table: the `mimetypes` module reads files of the machine, and digests must not depend on those.
_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".safetensors": "application/vnd.eco.weights.v1.safetensors",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


@dataclass(frozen=True)
class Descriptor:
    """A pointer to a blob.

    Attributes:
        title: File name of a layer; empty for other blobs.
    """

    digest: str
    size_bytes: int
    title: str = ""


@dataclass(frozen=True)
class OciManifest:
    """The parts of an OCI manifest that matter here.

    Attributes:
        kind: Kind of artifact, from the ``artifactType``.
        config: The blob of the Pydantic manifest.
        layers: The files, without the placeholder of an artifact that has none.
    """

    kind: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


def artifact_type(kind: str) -> str:
    """Return the ``artifactType`` of a kind."""
    return f"application/vnd.eco.{kind}.v1+json"


def build_manifest(kind: str, config: Descriptor, files: Iterable[FileEntry]) -> bytes:
    """Return the canonical bytes of an artifact's OCI manifest, whose SHA-256 is the artifact's digest."""
    layers: list[dict[str, object]] = [
        {
            "mediaType": _MEDIA_TYPES.get("." + entry.name.rpartition(".")[2], "application/octet-stream"),
            "digest": entry.digest,
            "size": entry.size_bytes,
            "annotations": {TITLE: entry.name},
        }
        for entry in files
    ]
    if not layers:  # the specification's JSON schema wants at least one layer
        layers = [{"mediaType": EMPTY_TYPE, "digest": EMPTY_DIGEST, "size": len(EMPTY_BYTES)}]
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": artifact_type(kind),
            "config": {
                "mediaType": f"application/vnd.eco.{kind}.config.v1+json",
                "digest": config.digest,
                "size": config.size_bytes,
            },
            "layers": layers,
        }
    )


def parse_manifest(data: bytes, digest: str) -> OciManifest:
    """Read an artifact's OCI manifest.

    Args:
        data: Verified bytes of the manifest blob.

    Raises:
        ArtifactError: The bytes are no manifest of an eco artifact.
    """
    try:
        raw = parse_json(data)
        kind = _ARTIFACT_TYPE.fullmatch(raw["artifactType"])
        config = _descriptor(raw["config"])
        layers = tuple(_descriptor(layer) for layer in raw["layers"] if layer["mediaType"] != EMPTY_TYPE)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{digest} is no eco artifact: expected an OCI manifest with artifactType, config and layers. "
            "Check the digest with `eco store ls`."
        ) from error
    if kind is None:
        raise ArtifactError(
            f"{digest} has the artifactType {raw['artifactType']!r}, expected application/vnd.eco.<kind>.v1+json: "
            "it was not made by eco. Check the digest with `eco store ls`."
        )
    return OciManifest(kind.group(1), config, layers)


def _descriptor(raw: dict[str, object]) -> Descriptor:
    digest, size = raw["digest"], raw["size"]
    annotations = raw.get("annotations") or {}
    if not isinstance(digest, str) or not is_digest(digest) or not isinstance(size, int):
        raise ValueError("bad descriptor")
    title = annotations.get(TITLE, "") if isinstance(annotations, dict) else ""
    return Descriptor(digest, size, title)


def index_entry(name: str | None, digest: str, size_bytes: int) -> dict[str, object]:
    """Return the index entry of an artifact, with or without a name."""
    entry: dict[str, object] = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": size_bytes}
    return entry if name is None else {**entry, "annotations": {REF_NAME: name}}


def build_index(entries: list[dict[str, object]]) -> bytes:
    """Return the canonical bytes of ``index.json``."""
    return canonical_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})


def read_index(path: Path) -> list[tuple[str, str, dict[str, object]]]:
    """Read an index.

    Returns:
        Name (empty where there is none), digest and the raw entry of each manifest.

    Raises:
        ArtifactError: The file is no index.
        FileNotFoundError: There is none.
    """
    try:
        entries = read_json(path, _INDEX_LIMIT_BYTES)["manifests"]
        if not isinstance(entries, list):
            raise TypeError
        return [
            (str((raw.get("annotations") or {}).get(REF_NAME, "")), _descriptor(raw).digest, raw) for raw in entries
        ]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}). Expected an OCI index.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged: found no list of manifests, expected an OCI index.") from error
