"""OCI manifests and indexes: the bytes that digests stand for, and refusing what is none."""

from pathlib import Path

import pytest

from ecocli.artifacts.digest import canonical_json
from ecocli.artifacts.manifest import FileEntry
from ecocli.artifacts.oci import (
    Descriptor,
    build_index,
    build_manifest,
    index_entry,
    parse_manifest,
    read_index,
)
from ecocli.errors import ArtifactError

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def test_build_manifest__one_file__gives_the_specified_bytes() -> None:
    # Written by hand after the OCI image-spec 1.1 (manifest.md), keys sorted.
    expected = (
        '{"artifactType":"application/vnd.eco.gate.v1+json",'
        f'"config":{{"digest":"{A}","mediaType":"application/vnd.eco.gate.config.v1+json","size":70}},'
        '"layers":[{"annotations":{"org.opencontainers.image.title":"gate.safetensors"},'
        f'"digest":"{B}","mediaType":"application/vnd.eco.weights.v1.safetensors","size":9}}],'
        '"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}'
    )
    files = [FileEntry(name="gate.safetensors", size_bytes=9, digest=B)]
    assert build_manifest("gate", Descriptor(A, 70), files).decode() == expected


def test_parse_manifest__built_one__gives_its_parts() -> None:
    files = [FileEntry(name="a.bin", size_bytes=9, digest=B), FileEntry(name="b.html", size_bytes=0, digest=A)]
    oci = parse_manifest(build_manifest("report", Descriptor(A, 70), files), A)
    assert (oci.kind, oci.config) == ("report", Descriptor(A, 70))
    assert oci.layers == (Descriptor(B, 9, "a.bin"), Descriptor(A, 0, "b.html"))


def test_build_manifest__no_files__has_the_empty_layer_that_is_read_as_none() -> None:
    data = build_manifest("gate", Descriptor(A, 70), [])
    assert b'"application/vnd.oci.empty.v1+json"' in data
    # The digest of "{}" as printed in the OCI image-spec.
    assert b"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" in data
    assert parse_manifest(data, A).layers == ()


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"\xff\xfe", b'{"artifactType":1,"config":{},"layers":[]}', b'{"artifactType":null}'],
)
def test_parse_manifest__other_bytes__are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=f"{A} is no eco artifact: expected an OCI manifest"):
        parse_manifest(data, A)


def test_parse_manifest__bad_descriptor__is_refused() -> None:
    data = build_manifest("gate", Descriptor(A, 70), []).replace(A.encode(), b"sha256:../../x")
    with pytest.raises(ArtifactError, match="is no eco artifact"):
        parse_manifest(data, A)


def test_parse_manifest__artifact_of_another_tool__is_refused() -> None:
    data = build_manifest("gate", Descriptor(A, 70), []).replace(b"vnd.eco.gate.v1", b"vnd.cncf.model.manifest.v1")
    with pytest.raises(ArtifactError, match=r"has the artifactType 'application/vnd.cncf.model.manifest.v1\+json'"):
        parse_manifest(data, A)


def test_read_index__entries_of_other_tools__need_digest_and_size_only(tmp_path: Path) -> None:
    ours = index_entry("gate", A, 5)
    data = build_index([ours, {"mediaType": "x", "digest": B, "size": 6, "annotations": None}])
    path = tmp_path / "index.json"
    path.write_bytes(data)
    assert [(name, digest) for name, digest, _ in read_index(path)] == [("gate", A), ("", B)]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"manifests":1}', b'{"manifests":[1]}', b"[" * 100_000, b'{"a":"\\ud800"}']
)
def test_read_index__other_bytes__are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"index\.json is damaged: found no list of manifests"):
        read_index(tmp_path / "index.json")


def test_index_entry__no_name__has_no_annotation() -> None:
    assert canonical_json(index_entry(None, A, 5)) == (
        f'{{"digest":"{A}","mediaType":"application/vnd.oci.image.manifest.v1+json","size":5}}'.encode()
    )
